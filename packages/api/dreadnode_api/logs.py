"""The log: JSON lines for programs, text for people, and secrets in neither.

`REQUEST` and `JOB` hold the ids of the request and the job that the current task works on. Every
line that is logged meanwhile has them.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
JOB: ContextVar[str | None] = ContextVar("job", default=None)

HIDDEN = "***"
# No line should contain any of these. A line that does was written by a mistake of ours, or by a
# library that quotes its input. The prefixes of our tokens stay, as a clue.
_SECRETS = (
    r"(?P<own>\bdnj?_)[\w-]{20,}"  # tokens of users and of sandboxes
    r"|(?P<engine>\btml-)[\w.%-]{6,}"  # keys of the engine and of Tinker
    r"|(?P<webhook>\bwhsec_)[\w+/=-]{8,}"
    r"|(?P<header>\b(?:[Bb]earer|[Bb]asic) +)[\w.~+/=-]{16,}"
    r"|(?P<address>://[^\s:/@\"]*:)[^\s/@\"]+(?=@)"  # the password in a database's URL
)
# Every match of the pattern contains one of these. Most lines contain none, and finding that out
# costs a tenth of a search for the pattern.
_MARKS = ("dn_", "dnj_", "tml-", "whsec_", "earer ", "asic ", "://")
TROUBLE_SECONDS = 60.0
"""How long one trouble is logged only once."""
# Libraries that log the same line for every connection or statement that fails.
_NOISY = ("aiosqlite", "asyncio", "sqlalchemy", "uvicorn")


class Redactor:
    """Hides secrets in text: what has the form of a token or key, and the secrets that it is given.

    Args:
        secrets: what this process knows and must never log in any form.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for each in secrets if len(each) >= 6 for form in (each, _in_json(each))}
        literal = [re.escape(each) for each in sorted(known, key=len, reverse=True)]
        self._pattern = re.compile("|".join([*literal, _SECRETS]))
        self._marks = (*known, *_MARKS)

    def __call__(self, text: str) -> str:
        """Return TEXT without secrets."""
        if not any(mark in text for mark in self._marks):
            return text
        return self._pattern.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    return (match[match.lastgroup] if match.lastgroup else "") + HIDDEN


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


class Context(logging.Filter):
    """Adds the ids of the request and the job to each record, and drops repeated noise."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged."""
        for name, value in (("request_id", REQUEST.get()), ("job_id", JOB.get())):
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        is_noise = record.levelno >= logging.WARNING and record.name.startswith(_NOISY)
        return not is_noise or _left_out(f"{record.name} {record.msg}") is not None


class TextFormatter(logging.Formatter):
    """For people: time, level and message, and the ids that the line is about."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the lines of its traceback."""
        return self._redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (`logging`'s name)
        """Return the line without the traceback."""
        text = super().formatMessage(record)
        for name in ("request_id", "job_id"):
            value = getattr(record, name, None)
            if value is not None and str(value) not in record.message:
                text += f" {name.removesuffix('_id')}={value}"
        return text


class ObjectFormatter(JsonFormatter):
    """For programs: one JSON object a line.

    It has `time` (UTC, in milliseconds), `level`, `logger` and `message`; `request_id` and `job_id`
    if the line is about one; `exception`, the whole traceback, if there was one; and the fields
    that a line of its kind has, such as `status` in the access log.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, redact: Redactor) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}
            | {"exc_info": "exception", "stack_info": "stack"},
            rename_fields_keep_missing=False,
            json_default=str,
            json_ensure_ascii=True,
        )
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a value without a JSON form is shown as text."""
        return self._redact(super().format(record))

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Write the level in lower case."""
        log_data["level"] = str(log_data["level"]).lower()
        return super().process_log_record(log_data)


_logged: dict[str, tuple[float, int]] = {}


def _left_out(key: str) -> int | None:
    """Return how many lines with this key were left out before this one, or None to leave it out.

    The first is logged, and after that one a minute.
    """
    present = time.monotonic()
    at, left_out = _logged.get(key, (float("-inf"), 0))
    if present - at < TROUBLE_SECONDS:
        _logged[key] = (at, left_out + 1)
        return None
    if len(_logged) > 1000:
        _logged.clear()
    _logged[key] = (present, 0)
    return left_out


def trouble(logger: logging.Logger, key: str, message: str, *args: object) -> None:
    """Log a warning about a trouble that lasts, at most once a minute for one KEY."""
    left_out = _left_out(f"{logger.name} {key}")
    if left_out is None:
        return
    if left_out:
        message += f"; {left_out} more like this in the minutes before"
    logger.warning(message, *args)


def configure(form: str = "", secrets: Iterable[str] = ()) -> None:
    """Send this process's log to stderr, including the exception that ends the process.

    Args:
        form: `json` or `text`; by default text at a terminal and JSON elsewhere.
        secrets: what no line may contain, besides everything that has the form of a secret.
    """
    form = form or ("text" if sys.stderr.isatty() else "json")
    redact = Redactor(secrets)
    handler = logging.StreamHandler()
    handler.addFilter(Context())
    handler.setFormatter(ObjectFormatter(redact) if form == "json" else TextFormatter(redact))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx2", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def log_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        logging.getLogger("dreadnode_api").critical(
            "the process ends unexpectedly", exc_info=(kind, error, trace)
        )

    sys.excepthook = log_exception


_access = logging.getLogger("dreadnode_api.access")


def request(method: str, path: str, status: int, seconds: float) -> None:
    """Log a request and its response."""
    milliseconds = round(seconds * 1000, 1)
    _access.info(
        "%s %s %d %s ms",
        method,
        printable(path),
        status,
        milliseconds,
        extra={"method": method, "path": path, "status": status, "milliseconds": milliseconds},
    )


def printable(path: str) -> str:
    """Return PATH so that it cannot end its line of the log and start another."""
    return path if path.isprintable() else ascii(path)
