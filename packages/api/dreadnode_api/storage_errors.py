"""Storage trouble: which exceptions mean that the database or the disk fails, and not our code.

A response for one of them is a 503 with one sentence, and the client tries again.
"""

import errno
import logging
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dreadnode_api import logs

_SQLITE = {
    sqlite3.SQLITE_BUSY: "The database is locked",
    sqlite3.SQLITE_LOCKED: "The database is locked",
    sqlite3.SQLITE_READONLY: "The database cannot be written",
    sqlite3.SQLITE_IOERR: "The database cannot be read or written",
    sqlite3.SQLITE_FULL: "The disk of the database is full",
    sqlite3.SQLITE_CANTOPEN: "The database cannot be opened",
}
# The first two characters of an SQLSTATE are its class.
_POSTGRESQL = {
    "08": "The database cannot be reached",
    "53": "The database has too many connections or a full disk",
    "55": "The database is locked",
    "57": "The database is shutting down or cancelled the statement",
    "58": "The database cannot be read or written",
}
_DISK = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota of the server is used up",
    errno.EROFS: "The disk cannot be written",
    errno.EIO: "The disk fails",
    errno.EMFILE: "The server has too many open files",
    errno.ENFILE: "The server has too many open files",
}


def describe(error: BaseException) -> str | None:
    """Return what is wrong with the storage, or None if ERROR is not storage trouble."""
    for each in _chain(error):
        if isinstance(each, PoolTimeout):
            return "The database has no free connection"
        if isinstance(each, sqlite3.Error):
            # The low byte is the kind of error, the rest is more exact.
            code = getattr(each, "sqlite_errorcode", 0) & 0xFF
            if code in _SQLITE:
                return _SQLITE[code]
            if "no such savepoint" in str(each):
                # SQLite rolls a transaction back by itself only when the disk is full or fails.
                # SQLAlchemy then rolls back the savepoint, and that error replaces the first one.
                return "The disk of the database is full or fails"
        state = getattr(each, "sqlstate", None)
        if isinstance(state, str) and state[:2] in _POSTGRESQL:
            return _POSTGRESQL[state[:2]]
        if isinstance(each, DBAPIError) and each.connection_invalidated:
            return "The connection to the database was lost"
        if isinstance(each, OSError) and each.errno in _DISK:
            return _DISK[each.errno]
        # The host may have no address, or the socket's file may be gone: each has its own type.
        if isinstance(each, OSError) and _is_of_database(error):
            return "The database cannot be reached"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ERROR and what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        orig = getattr(seen, "orig", None)
        seen = orig if isinstance(orig, BaseException) else seen.__cause__


def _is_of_database(error: BaseException) -> bool:
    """Return whether ERROR was raised by the database's driver, as its traceback shows."""
    frames = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_globals.get("__name__", "").startswith("asyncpg."):
            return True
        frames = frames.tb_next
    return False


def log_failure(log: logging.Logger, what: str, error: Exception) -> None:
    """Log that a background task failed: storage trouble in one line, anything else in full.

    A task that fails is tried again soon, so one trouble is logged once a minute.
    """
    trouble = describe(error)
    if trouble is None:
        log.error("%s", what, exc_info=error)
    else:
        logs.trouble(log, trouble, "%s: %s (%s)", what, trouble, error)
