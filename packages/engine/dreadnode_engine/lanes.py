"""The two kinds of lanes: the operations of one run, and the samples from one set of weights."""

import logging
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path

from dreadnode_engine import records, wire
from dreadnode_engine.adapters import saved_shape
from dreadnode_engine.bases import LoadedBase, Network
from dreadnode_engine.context import Context
from dreadnode_engine.decoding import Batch, Ticket
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.operations import MAKERS, OPERATIONS, Outcome, bring_back, take_snapshot
from dreadnode_engine.records import Request, Run
from dreadnode_engine.runs import TrainingState
from dreadnode_engine.sampling import Stopper, parse, plan

log = logging.getLogger(__name__)

WRITE_AGAIN_SECONDS = 2.0


class RunLane:
    """The operations of one run, in the order of their sequence numbers.

    Attributes:
        run: the run's record; `state` is its weights, None while they are only on disk.
        next_seq: the operation whose turn it is.
        paused: whether to leave operations waiting, because their client has fallen silent.
        unsaved_seconds: computing since the last snapshot.
    """

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
        self.snapshot()
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
            self.fail(request, _sentence(problem), "server")
        else:
            self.unsaved_seconds += time.monotonic() - started

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

        write(self.context, record)
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


class SampleLane:
    """The samples that are drawn from one set of weights: a base model, with or without adapter."""

    def __init__(self, context: Context, base_model: str, weights: str | None) -> None:
        self.context = context
        self.base_model = base_model
        self.weights = weights
        self.used = 0.0
        self.last = time.time()
        self._incoming: list[Request] = []
        self._open: dict[str, Request] = {}
        self._batch: Batch | None = None
        self._bind: Callable[[], None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self._incoming and not self._open

    def add(self, request: Request) -> None:
        """Accept REQUEST; it joins what is already being decoded."""
        self.last = time.time()
        self._incoming.append(request)
        self.context.worker.wake(self)

    def ready(self) -> bool:
        """Whether there is anything to decode."""
        return bool(self._incoming) or (self._batch is not None and self._batch.busy)

    def advance(self) -> None:
        """Take in what came, and compute a prompt or one token of every sample."""
        try:
            if self._batch is None:
                self._batch = self._open_batch()
            while self._incoming:
                self._admit(self._batch, self._incoming[0])
                self._incoming.pop(0)
            if self._bind is not None:
                self._bind()
            self._batch.advance()
        except Exception as problem:
            log.exception("sampling from %s stopped", self.weights or self.base_model)
            known = isinstance(problem, OperationFailed)
            name = type(problem).__name__
            sentence = (
                str(problem)
                if known
                else f"The engine could not do this ({name}); its log says why"
            )
            for request in [*self._open.values(), *self._incoming]:
                self._fail(request, sentence)
            self._batch, self._incoming = None, []

    def let_go(self) -> None:
        """Free the memory of a lane that is idle; the next request brings the weights back."""
        if self.idle:
            self._batch = self._bind = None

    def _open_batch(self) -> Batch:
        base = self.context.residency.base(self.base_model)
        settings = self.context.settings
        network = base.plain
        if self.weights is not None:
            network, self._bind = _bound(base, Path(self.weights))
        return Batch(
            base, network, rows=settings.sampling_rows, positions=settings.sampling_positions
        )

    def _admit(self, batch: Batch, request: Request) -> None:
        base = self.context.residency.base(self.base_model)
        try:
            checked = plan(parse(request.payload), base.served, seed=0)
        except Refused as refusal:
            # It was fine when it was accepted: the model behind its name is another one now.
            self._fail(request, str(refusal))
            return
        self._open[request.id] = request
        stopper = Stopper(checked, base)
        batch.add(Ticket(checked, stopper, lambda answer: self._finish(request, answer)))

    def _finish(self, request: Request, answer: bytes) -> None:
        write(
            self.context,
            lambda db: records.finish(db, request, wire.MEDIA_TYPE, answer, keep_body=False),
        )
        self._open.pop(request.id, None)
        self.context.announce(request.id)

    def _fail(self, request: Request, sentence: str) -> None:
        write(self.context, lambda db: records.fail(db, request, sentence, "server"))
        self._open.pop(request.id, None)
        self.context.announce(request.id)


def write(context: Context, record: Callable[[sqlite3.Connection], None]) -> None:
    """Journal what was done, however long that takes: a full disk must not lose it."""
    while True:
        try:
            return context.journal.do_now(record)
        except sqlite3.OperationalError as problem:
            log.warning("the journal cannot be written (%s); it is tried again", problem)
            time.sleep(WRITE_AGAIN_SECONDS)


def _sentence(problem: Exception) -> str:
    """Say what went wrong to a client who cannot see this engine's log."""
    if isinstance(problem, OperationFailed):
        return str(problem)
    return f"The engine could not do this ({type(problem).__name__}); its log says why"


def _bound(base: LoadedBase, folder: Path) -> tuple[Network, Callable[[], None]]:
    """Load the adapter in FOLDER; return the network that uses it, and what binds it there."""
    if not folder.is_dir():
        raise OperationFailed("The weights of this sampler are no longer kept; save them again")
    wrapper, network = base.wrapped(saved_shape(folder))
    tensors = wrapper.load(folder)
    return network, lambda: wrapper.bind(tensors)
