"""The engine's log on stderr: one JSON object per line, or plain text."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dreadnode_engine.errors import Refused

FORMAT = "DREADNODE_LOG_FORMAT"
"""The variable for the format, which the API reads too."""


class JsonFormatter(logging.Formatter):
    """JSON lines with `time` (UTC), `level`, `logger`, `message`, and `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(environ: Mapping[str, str] = os.environ) -> None:
    """Log to stderr in the format that ENVIRON sets: `json`, or `text` (for terminals).

    Raises:
        Refused: It sets another format.
    """
    name = environ.get(FORMAT) or ("text" if sys.stderr.isatty() else "json")
    if name not in ("json", "text"):
        raise Refused(f"`{FORMAT}` must be `json` or `text`, not `{name}`")
    handler = logging.StreamHandler()
    if name == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # It logs every request that the engine forwards.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
