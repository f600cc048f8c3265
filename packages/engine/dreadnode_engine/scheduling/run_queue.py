"""The queue of a run: its operations, each in its turn."""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Generator

from dreadnode_engine.compute.training_state import TrainingState
from dreadnode_engine.errors import OperationFailed, Refused, StoppedBeforeCommit
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.scheduling.journal_writes import error_message, load_body, write
from dreadnode_engine.scheduling.operations import CREATE_OPERATIONS, OPERATIONS, Outcome
from dreadnode_engine.scheduling.replay import rebuild
from dreadnode_engine.scheduling.snapshots import take_snapshot
from dreadnode_engine.state import queries
from dreadnode_engine.state.crash_guard import check_interruptions
from dreadnode_engine.state.records import Request, Run

log = logging.getLogger(__name__)


class RunQueue:
    """The operations of one run, in the order of their sequence numbers.

    Attributes:
        run: the run's record.
        state: its weights and optimizer; None while they are only on disk.
        share: how many queues' time it gets.
        next_seq: the operation whose turn it is.
        paused: whether operations wait because their client is silent.
        unsaved_seconds: computing since the last snapshot.
    """

    share = 1

    def __init__(
        self,
        context: Context,
        run: Run,
        finished: set[int],
        on_end: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self.context = context
        self.run = run
        self.used = 0.0
        self.state: TrainingState | None = None
        self.unsaved_seconds = 0.0
        self.paused = False
        self._on_end = on_end
        self._release = False
        self._abandoned: list[tuple[Request, str]] = []
        self._waiting: dict[int, Request] = {}
        self._done = finished
        self.next_seq = 0
        self._skip_done()
        self._current: Request | None = None
        self._work: Generator[None, None, Outcome] | None = None

    @property
    def idle(self) -> bool:
        """Whether no operation runs or waits."""
        return self._current is None and not self._waiting

    def add(self, request: Request) -> None:
        """Add REQUEST, which runs after everything numbered before it."""
        self._waiting[request.seq] = request
        self.context.scheduler.wake(self)

    def waiting_for_gap(self, since: float) -> list[Request]:
        """Return operations accepted before SINCE that wait for a missing one."""
        if self._current is not None or self.next_seq in self._waiting:
            return []
        return [request for request in list(self._waiting.values()) if request.created < since]

    def ready(self) -> bool:
        """Whether there is an operation to run, to abandon, or memory to free."""
        if self._work is not None or self._release or self._abandoned:
            return True
        return self.next_seq in self._waiting and not self.paused

    def release(self) -> None:
        """Free the run's memory between operations; the next operation loads it again."""
        if self.state is not None:
            self._release = True
            self.context.scheduler.wake(self)

    def evict(self) -> bool:
        """Snapshot the run and free its memory; return False in the middle of an operation."""
        if self._work is not None:
            return False
        try:
            self.snapshot()
        except Exception:
            # The journal can compute it again, and others need the memory.
            log.exception("the snapshot of %s failed", self.run.id)
        self.state = None
        return True

    def abandon(self, request: Request, message: str) -> None:
        """Fail an operation that waits for a missing one, unless that one comes first."""
        self._abandoned.append((request, message))
        self.context.scheduler.wake(self)

    def advance(self) -> None:
        """Do one slice of the operation whose turn it is."""
        if self._work is None and (self._abandoned or self._release):
            self._between_operations()
            return
        if self._work is None or self._current is None:
            self._current = self._waiting[self.next_seq]
            self._current.started = time.time()
            load_body(self.context, self._current)
            self._work = self._operate(self._current)
        request, started = self._current, time.monotonic()
        self.context.crash_guard.mark_computing([request.id])
        try:
            next(self._work)
        except StopIteration as finished:
            self.unsaved_seconds += time.monotonic() - started
            self._complete(request, finished.value)
        except (OperationFailed, Refused) as problem:
            self.fail(request, str(problem), getattr(problem, "category", "user"))
        except Exception as problem:
            # The state may be inconsistent now: rebuild it from disk.
            log.exception("operation %s of %s failed", request.seq, self.run.id)
            self.state = None
            self.fail(request, error_message(problem), "server")
        else:
            self.unsaved_seconds += time.monotonic() - started
        finally:
            self.context.crash_guard.clear()

    def _between_operations(self) -> None:
        """Abandon operations and free memory, as other threads requested."""
        while self._abandoned:
            request, message = self._abandoned.pop()
            if request.seq in self._waiting and self.next_seq not in self._waiting:
                self.fail(request, message, "user")
        if self._release:
            self._release = False
            if self.next_seq not in self._waiting or self.paused:
                self.evict()

    def fail(self, request: Request, message: str, category: str) -> None:
        """End REQUEST without effect."""
        write(self.context, lambda db: queries.fail(db, request, message, category))
        self._end(request)
        self.context.futures.notify(request.id)

    def snapshot(self) -> None:
        """Write the run's state to disk if it is newer than the last snapshot."""
        last = self.next_seq - 1
        if self.state is not None and self.run.snapshot != last and last >= 0:
            take_snapshot(self.context, self.run, self.state, last)
        self.unsaved_seconds = 0.0

    def _operate(self, request: Request) -> Generator[None, None, Outcome]:
        check_interruptions(request)
        self.context.check_base(self.run)
        if (create := CREATE_OPERATIONS.get(request.kind)) is not None:
            self.state, outcome = yield from create(self.context, self.run, request)
            return outcome
        if self.state is None:
            self.state = yield from rebuild(self.context, self.run, self.next_seq)
        operation = OPERATIONS[request.kind]
        return (yield from operation(self.context, self.run, self.state, request))

    def _complete(self, request: Request, outcome: Outcome) -> None:
        request.work = json.dumps(outcome.work) if outcome.work else None

        def record(db: sqlite3.Connection) -> None:
            queries.finish(
                db, request, outcome.media, outcome.body, keep_body=outcome.changes_state
            )
            if outcome.record is not None:
                outcome.record(db)

        try:
            write(self.context, record)
        except StoppedBeforeCommit:
            # The state is ahead of the journal and must never reach the disk.
            self.state = None
            raise
        self._end(request)
        self.context.futures.notify(request.id, publish=outcome.publish)
        due = self.unsaved_seconds > self.context.settings.snapshot_seconds
        # Between optimizer steps there are no gradients to save, but that may take long to come.
        overdue = self.unsaved_seconds > 3 * self.context.settings.snapshot_seconds
        if self.state is not None and (overdue or (due and not self.state.accumulating)):
            try:
                self.snapshot()
            except Exception:
                # The journal can still compute everything again.
                log.exception("the snapshot of %s failed; it is tried again later", self.run.id)

    def _end(self, request: Request) -> None:
        self._current = self._work = None
        request.body = None
        self._waiting.pop(request.seq, None)
        self._on_end(request)
        self._done.add(request.seq)
        self._skip_done()

    def _skip_done(self) -> None:
        while self.next_seq in self._done:
            self._done.discard(self.next_seq)
            self.next_seq += 1
