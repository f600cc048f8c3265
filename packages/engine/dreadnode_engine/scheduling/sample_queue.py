"""The lane of samples: every request to draw from one base model, with or without adapters."""

import logging
import time
from functools import partial
from pathlib import Path

from dreadnode_engine.compute.decoding import Batch, Ticket
from dreadnode_engine.compute.sampling import Stopper, parse, plan
from dreadnode_engine.errors import OperationFailed, Refused, StoppedUnwritten
from dreadnode_engine.http import protobuf as wire
from dreadnode_engine.scheduling.run_queue import sentence_of, write
from dreadnode_engine.state import records
from dreadnode_engine.state.context import Context
from dreadnode_engine.state.crash_guard import ALONE_FROM, check_lost
from dreadnode_engine.state.records import Request, Sampler

log = logging.getLogger(__name__)


class SampleLane:
    """The samples drawn from one base model and the adapters on it, decoded together.

    `cache_bytes` is what its cache may take beyond one context, which is always set aside.
    """

    def __init__(self, context: Context, base_model: str) -> None:
        self.context = context
        self.base_model = base_model
        self.used = 0.0
        self.last = time.time()
        self.cache_bytes = 0
        self._incoming: list[Request] = []
        self._dropped: list[str] = []
        self._open: dict[str, tuple[Request, Ticket]] = {}
        self._batch: Batch | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self._incoming and not self._open

    @property
    def share(self) -> int:
        """How many clients it works for: it gets the time of that many runs."""
        return max(1, self._batch.clients) if self._batch is not None else 1

    def add(self, request: Request) -> None:
        """Accept REQUEST; it joins what is already being decoded."""
        self.last = time.time()
        self._incoming.append(request)
        self.context.worker.wake(self)

    def open_requests(self) -> list[Request]:
        """Return the requests that are not answered yet."""
        return [*list(self._incoming), *(request for request, _ in list(self._open.values()))]

    def drop(self, request_id: str) -> None:
        """Give up a request whose answer nobody wants any more."""
        self._dropped.append(request_id)
        self.context.worker.wake(self)

    def ready(self) -> bool:
        """Whether there is anything to decode, or to give up."""
        waiting = self._incoming or self._dropped
        return bool(waiting) or (self._batch is not None and self._batch.busy)

    def advance(self) -> None:
        """Take in what came, and compute a prompt or one token of every sample."""
        try:
            while self._dropped:
                self._give_up(self._dropped.pop())
            if self._batch is None:
                self._batch = self._open_batch()
            while self._incoming:
                self._admit(self._batch, self._incoming[0])
                self._incoming.pop(0)
            self._batch.advance()
            if not self._batch.busy:
                # The next one is opened for the memory that there is by then.
                self.let_go()
        except StoppedUnwritten:
            raise
        except Exception as problem:
            log.exception("sampling from %s stopped", self.base_model)
            for request in self.open_requests():
                self._fail(request, sentence_of(problem))
            self._batch, self._incoming, self.cache_bytes = None, [], 0
            if (base := self.context.residency.bases.get(self.base_model)) is not None:
                base.mixed.release()
        finally:
            self.context.underway.clear()

    def let_go(self) -> None:
        """Free the memory of a lane that is idle; the next request brings the weights back."""
        if self.idle:
            self._batch, self.cache_bytes = None, 0

    def _open_batch(self) -> Batch:
        # Each of them needs what is about to be loaded.
        self.context.underway.begin([request.id for request in self._incoming])
        residency = self.context.residency
        base = residency.base(self.base_model)
        positions, self.cache_bytes = residency.room_for_cache(self.base_model)
        return Batch(
            base,
            base.mixed,
            rows=self.context.settings.sampling_rows,
            positions=positions,
            make_room=partial(residency.room_for_adapter, self.base_model),
            begin=self.context.underway.begin,
        )

    def _admit(self, batch: Batch, request: Request) -> None:
        base = self.context.residency.base(self.base_model)
        sampler = self.context.samplers.get(request.lane)
        if sampler is None:
            self._fail(request, "This sampler is no longer kept; make a new one")
            return
        try:
            check_lost(request)
            self.context.check_base(sampler)
            checked = plan(parse(request.payload), base.served, seed=0)
        except OperationFailed as problem:
            self._fail(request, str(problem), problem.category)
            return
        except Refused as refusal:
            # It was fine when it was accepted: the model behind its name is another one now.
            self._fail(request, str(refusal))
            return
        ticket = Ticket(
            checked,
            Stopper(checked, base),
            done=lambda answer: self._finish(request, answer),
            failed=lambda sentence: self._fail(request, sentence),
            weights=lambda: _folder(sampler),
            client=sampler.session,
            name=request.id,
            alone=request.lost >= ALONE_FROM,
        )
        self._open[request.id] = request, ticket
        batch.add(ticket)

    def _give_up(self, request_id: str) -> None:
        held = [request for request in self._incoming if request.id == request_id]
        if request_id in self._open:
            request, ticket = self._open[request_id]
            held.append(request)
            if self._batch is not None:
                self._batch.drop(ticket)
        for request in held:
            if request in self._incoming:
                self._incoming.remove(request)
            write(self.context, partial(records.drop, request=request))
            self._ended(request)

    def _finish(self, request: Request, answer: bytes) -> None:
        write(
            self.context,
            lambda db: records.finish(db, request, wire.MEDIA_TYPE, answer, keep_body=False),
        )
        self._ended(request)

    def _fail(self, request: Request, sentence: str, category: str = "server") -> None:
        write(self.context, lambda db: records.fail(db, request, sentence, category))
        self._ended(request)

    def _ended(self, request: Request) -> None:
        self._open.pop(request.id, None)
        self.context.announce(request.id)


def _folder(sampler: Sampler) -> Path | None:
    return Path(sampler.weights) if sampler.weights is not None else None
