"""Log lines: one JSON object a line for programs, plain text for people, and no key in either.

What a line is about travels beside the message: `REQUEST` and `JOB` hold the ids of the request
and the job that this task is at work on, and every line that is logged meanwhile carries them.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
JOB: ContextVar[str | None] = ContextVar("job", default=None)

HIDDEN = "***"
# No line is meant to hold any of these; a line that does was written by a mistake of ours, or by a
# library that quotes what it was given. The names that our keys begin with stay, as a clue.
_SECRETS = (
    r"(?P<own>\bdnj?_)[\w-]{20,}"  # of people and of sandboxes
    r"|(?P<engine>\btml-)[\w.%-]{6,}"  # of the engine and of Tinker
    r"|(?P<webhook>\bwhsec_)[\w+/=-]{8,}"
    r"|(?P<header>\b(?:[Bb]earer|[Bb]asic) +)[\w.~+/=-]{16,}"
    r"|(?P<address>://[^\s:/@\"]*:)[^\s/@\"]+(?=@)"  # the password in a database's address
)
# Each match of the pattern holds one of these. Most lines hold none, and to see that costs a
# tenth of searching them for the pattern.
_MARKS = ("dn_", "dnj_", "tml-", "whsec_", "earer ", "asic ", "://")


class Redactor:
    """Hides keys in text: whatever has the form of one, and the secrets it is given.

    Args:
        secrets: what this process knows and nobody may read, whatever its form.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for each in secrets if len(each) >= 6 for form in (each, _in_json(each))}
        literal = [re.escape(each) for each in sorted(known, key=len, reverse=True)]
        self._pattern = re.compile("|".join([*literal, _SECRETS]))
        self._marks = (*known, *_MARKS)

    def __call__(self, text: str) -> str:
        """Return `text` without what nobody may read."""
        if not any(mark in text for mark in self._marks):
            return text
        return self._pattern.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    return (match[match.lastgroup] if match.lastgroup else "") + HIDDEN


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


class _Formatter(logging.Formatter):
    """What both forms share: keys are hidden in all of the line, and the time is formatted once."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._redact = redact
        self._second = 0
        self._text = ""

    def moment(self, record: logging.LogRecord, form: str, *, utc: bool) -> str:
        """Return the record's time without its fraction; one second's lines have the same."""
        second = int(record.created)
        if second != self._second:
            self._second = second
            zone = UTC if utc else None
            self._text = datetime.fromtimestamp(second, zone).strftime(form)
        return self._text


class TextFormatter(_Formatter):
    """For people: time, level and message, and what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the lines of its exception below it."""
        return self._redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (`logging`'s name)
        """Return the line's own part."""
        text = super().formatMessage(record)
        for name, value in _about(record).items():
            if str(value) not in record.message:
                text += f" {name.removesuffix('_id')}={value}"
        return text

    def formatTime(  # noqa: N802 (the name that `logging` calls)
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """Return the local time, to the millisecond."""
        return f"{self.moment(record, '%Y-%m-%d %H:%M:%S', utc=False)},{int(record.msecs):03}"


class JsonFormatter(_Formatter):
    """For programs: one object a line.

    It holds `time` (UTC, to the millisecond), `level`, `logger` and `message`; `request_id` and
    `job_id` where the line is about one; `exception`, the whole traceback, where there was one; and
    the fields that a line of its kind has, such as `status` in the access log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what has no form in JSON stands in it as text."""
        time = self.moment(record, "%Y-%m-%dT%H:%M:%S", utc=True)
        line: dict[str, Any] = {
            "time": f"{time}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return self._redact(_encode(line))


_encode = json.JSONEncoder(default=str).encode  # `json.dumps` makes a new encoder for each line.


def _about(record: logging.LogRecord) -> dict[str, str]:
    about = {"request_id": REQUEST.get(), "job_id": getattr(record, "job_id", None) or JOB.get()}
    return {name: value for name, value in about.items() if value is not None}


def configure(form: str = "", secrets: Iterable[str] = ()) -> None:
    """Send this process's log to stderr, the last words of an unexpected end included.

    Args:
        form: `json` or `text`; without one, text where a person reads at a terminal, else JSON.
        secrets: what must not be read in it, beside everything that has the form of a key.
    """
    form = form or ("text" if sys.stderr.isatty() else "json")
    redact = Redactor(secrets)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(redact) if form == "json" else TextFormatter(redact))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def last_words(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        logging.getLogger("dreadnode_api").critical(
            "the process ends unexpectedly", exc_info=(kind, error, trace)
        )

    sys.excepthook = last_words


_access = logging.getLogger("dreadnode_api.access")


class _Answered(logging.LogRecord):
    """A record about an answer, which looks up nothing that all of its kind have in common.

    `logging` finds file, module, process and thread anew for every record, which takes longer
    than to write the line.
    """

    _common: ClassVar[dict[str, Any]] = vars(
        logging.LogRecord(_access.name, logging.INFO, __file__, 0, "", None, None)
    )

    def __init__(self, text: str, fields: dict[str, Any]) -> None:
        self.__dict__.update(self._common)
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        self.msg = text
        self.fields = fields


def answered(method: str, path: str, status: int, seconds: float) -> None:
    """Log that a request was answered, at a fraction of what `logging` takes by itself."""
    if not _access.isEnabledFor(logging.INFO):
        return
    milliseconds = round(seconds * 1000, 1)
    text = f"{method} {printable(path)} {status} {milliseconds} ms"
    fields = {"method": method, "path": path, "status": status, "milliseconds": milliseconds}
    _access.handle(_Answered(text, fields))


def printable(path: str) -> str:
    """Return `path` so that it cannot end its line of the log and begin another."""
    return path if path.isprintable() else ascii(path)
