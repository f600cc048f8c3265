"""The engine's log on stderr: an object a line for programs, plain text for people."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dreadnode_engine.errors import Refused

FORM = "DREADNODE_LOG_FORMAT"
"""The variable that names the form, as for the service beside which the engine runs."""


class JsonFormatter(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`, and `exception` if any."""

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
    """Send the log to stderr in the form that ENVIRON names: `json`, or `text` (for terminals).

    Raises:
        Refused: It names neither.
    """
    form = environ.get(FORM) or ("text" if sys.stderr.isatty() else "json")
    if form not in ("json", "text"):
        raise Refused(f"`{FORM}` must be `json` or `text`, not `{form}`")
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
