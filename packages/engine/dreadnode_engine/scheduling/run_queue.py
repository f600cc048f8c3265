"""The lane of a run: its operations, each in its turn."""

import logging
import sqlite3
import time
from collections.abc import Callable, Generator

from dreadnode_engine.errors import OperationFailed, Refused, StoppedUnwritten
from dreadnode_engine.scheduling.operations import (
    MAKERS,
    OPERATIONS,
    Outcome,
    bring_back,
    take_snapshot,
)
from dreadnode_engine.state import records
from dreadnode_engine.state.context import Context
from dreadnode_engine.state.crash_guard import check_lost
from dreadnode_engine.state.records import Request, Run
from dreadnode_engine.state.runs import TrainingState

log = logging.getLogger(__name__)

WRITE_AGAIN_SECONDS = 2.0


class RunLane:
    """The operations of one run, in the order of their sequence numbers.

    Attributes:
        run: the run's record; `state` is its weights, None while they are only on disk.
        share: how many lanes' time it gets.
        next_seq: the operation whose turn it is.
        paused: whether to leave operations waiting, because their client has fallen silent.
        unsaved_seconds: computing since the last snapshot.
    """

    share = 1

    def __init__(self, context: Context, run: Run, finished: set[int]) -> None:
        self.context = context
        self.run = run
        self.used = 0.0
        self.state: TrainingState | None = None
        self.unsaved_seconds = 0.0
        self.paused = False
        self._release = False
        self._given_up: list[tuple[Request, str]] = []
        self._pending: dict[int, Request] = {}
        self._done = finished
        self.next_seq = 0
        self._skip_done()
        self._current: Request | None = None
        self._work: Generator[None, None, Outcome] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting for its turn."""
        return self._current is None and not self._pending

    def add(self, request: Request) -> None:
        """Accept REQUEST; it runs when everything numbered before it has run."""
        self._pending[request.seq] = request
        self.context.worker.wake(self)

    def waiting_for_gap(self, since: float) -> list[Request]:
        """Return operations accepted before SINCE whose predecessor has never come."""
        if self._current is not None or self.next_seq in self._pending:
            return []
        return [request for request in list(self._pending.values()) if request.created < since]

    def ready(self) -> bool:
        """Whether an operation is under way or has its turn, or the memory is to be freed."""
        if self._work is not None or self._release or self._given_up:
            return True
        return self.next_seq in self._pending and not self.paused

    def release(self) -> None:
        """Free the run's memory when nothing is under way; the next operation brings it back."""
        if self.state is not None:
            self._release = True
            self.context.worker.wake(self)

    def let_go(self) -> bool:
        """Put the run on disk and free its memory, unless an operation is half way through."""
        if self._work is not None:
            return False
        try:
            self.snapshot()
        except Exception:
            # All of it stands in the journal: it can be computed again, and others need the room.
            log.exception("the snapshot of %s was not written", self.run.id)
        self.state = None
        return True

    def give_up(self, request: Request, sentence: str) -> None:
        """End an operation that waits for another, unless that one comes in the meantime."""
        self._given_up.append((request, sentence))
        self.context.worker.wake(self)

    def advance(self) -> None:
        """Do one slice of the operation whose turn it is."""
        if self._work is None and (self._given_up or self._release):
            self._tidy()
            return
        if self._work is None or self._current is None:
            self._current = self._pending[self.next_seq]
            self._work = self._operate(self._current)
        request, started = self._current, time.monotonic()
        self.context.underway.begin([request.id])
        try:
            next(self._work)
        except StopIteration as finished:
            self.unsaved_seconds += time.monotonic() - started
            self._complete(request, finished.value)
        except (OperationFailed, Refused) as problem:
            self.fail(request, str(problem), getattr(problem, "category", "user"))
        except Exception as problem:
            # Whatever this was, it may have left the state in pieces: build it again from disk.
            log.exception("operation %s of %s stopped", request.seq, self.run.id)
            self.state = None
            self.fail(request, sentence_of(problem), "server")
        else:
            self.unsaved_seconds += time.monotonic() - started
        finally:
            self.context.underway.clear()

    def _tidy(self) -> None:
        """Do between operations what was asked for from outside."""
        while self._given_up:
            request, sentence = self._given_up.pop()
            if request.seq in self._pending and self.next_seq not in self._pending:
                self.fail(request, sentence, "user")
        if self._release:
            self._release = False
            if self.next_seq not in self._pending or self.paused:
                self.let_go()

    def fail(self, request: Request, sentence: str, category: str) -> None:
        """End REQUEST without effect."""
        write(self.context, lambda db: records.fail(db, request, sentence, category))
        self._ended(request)
        self.context.announce(request.id)

    def snapshot(self) -> None:
        """Put the run's state on disk, if it is ahead of what is there."""
        last = self.next_seq - 1
        if self.state is not None and self.run.snapshot != last and last >= 0:
            take_snapshot(self.context, self.run, self.state, last)
        self.unsaved_seconds = 0.0

    def _operate(self, request: Request) -> Generator[None, None, Outcome]:
        check_lost(request)
        self.context.check_base(self.run)
        if request.kind in MAKERS:
            self.state, outcome = yield from MAKERS[request.kind](self.context, self.run, request)
            return outcome
        if self.state is None:
            self.state = yield from bring_back(self.context, self.run, self.next_seq)
        operation = OPERATIONS[request.kind]
        return (yield from operation(self.context, self.run, self.state, request))

    def _complete(self, request: Request, outcome: Outcome) -> None:
        def record(db: sqlite3.Connection) -> None:
            records.finish(
                db, request, outcome.media, outcome.body, keep_body=outcome.changes_state
            )
            if outcome.record is not None:
                outcome.record(db)

        try:
            write(self.context, record)
        except StoppedUnwritten:
            # What is in memory is ahead of the journal, and must never be put on disk.
            self.state = None
            raise
        self._ended(request)
        self.context.announce(request.id, outcome.publish)
        due = self.unsaved_seconds > self.context.settings.snapshot_seconds
        # Between steps there are no gradients to save; but do not wait for that for ever.
        overdue = self.unsaved_seconds > 3 * self.context.settings.snapshot_seconds
        if self.state is not None and (overdue or (due and not self.state.accumulating)):
            try:
                self.snapshot()
            except Exception:
                # What a snapshot would have saved can still be computed again.
                log.exception("the snapshot of %s was not written; it is tried later", self.run.id)

    def _ended(self, request: Request) -> None:
        self._current = self._work = None
        self._pending.pop(request.seq, None)
        self._done.add(request.seq)
        self._skip_done()

    def _skip_done(self) -> None:
        while self.next_seq in self._done:
            self._done.discard(self.next_seq)
            self.next_seq += 1


def write(context: Context, record: Callable[[sqlite3.Connection], None]) -> None:
    """Journal what was done, however long that takes: a full disk must not lose it.

    Raises:
        StoppedUnwritten: the engine was asked to stop, and it could not be written then either;
            what asked for it stands in the journal, and is computed again at the next start.
    """
    context.underway.clear()
    stopping = context.worker.stopping
    while True:
        try:
            return context.journal.do_now(record)
        except sqlite3.OperationalError as problem:
            if stopping.is_set():
                raise StoppedUnwritten(
                    f"The engine stops while its journal cannot be written ({problem}); "
                    "what was computed last is computed again at the next start"
                ) from problem
            log.warning("the journal cannot be written (%s); it is tried again", problem)
            stopping.wait(WRITE_AGAIN_SECONDS)


def sentence_of(problem: Exception) -> str:
    """Say what went wrong to a client who cannot see this engine's log."""
    if isinstance(problem, OperationFailed):
        return str(problem)
    return f"The engine could not do this ({type(problem).__name__}); its log says why"
