"""How the computing thread records what it has computed, and reports its errors."""

import logging
import sqlite3
from collections.abc import Callable

from dreadnode_engine.errors import OperationFailed, StoppedBeforeCommit
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Request

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


def write(context: Context, record: Callable[[sqlite3.Connection], None]) -> None:
    """Run RECORD in the journal, and retry until it succeeds: a full disk must lose nothing.

    Raises:
        StoppedBeforeCommit: the engine was asked to stop and the journal still cannot be written.
            The request is still queued in the journal; the next start computes it again.
    """
    context.crash_guard.clear()
    stopping = context.scheduler.stopping
    while True:
        try:
            return context.journal.do_now(record)
        except sqlite3.OperationalError as problem:
            if stopping.is_set():
                raise StoppedBeforeCommit(
                    f"The engine stops while its journal cannot be written ({problem}); "
                    "the next start computes the last operation again"
                ) from problem
            log.warning("the journal cannot be written (%s); it is tried again", problem)
            stopping.wait(RETRY_SECONDS)


def load_body(context: Context, request: Request) -> None:
    """Read the body of REQUEST from the journal, where it waited for its turn."""
    if request.body is None:
        request.body = context.journal.do_now(queries.find_body, request.id)


def error_message(problem: Exception) -> str:
    """Return what a client, who cannot see the log, should read about PROBLEM."""
    if isinstance(problem, OperationFailed):
        return str(problem)
    return f"The engine failed with {type(problem).__name__}; see its log"
