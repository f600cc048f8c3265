"""The queue of samples: every sampling request on one base model, with or without adapters."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.sampling import StopCondition, parse, plan
from dreadnode_engine.errors import OperationFailed, Refused, StoppedBeforeCommit
from dreadnode_engine.protocol import protobuf
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.scheduling.journal_writes import error_message, load_body, write
from dreadnode_engine.state import queries
from dreadnode_engine.state.crash_guard import ISOLATE_AFTER, check_interruptions
from dreadnode_engine.state.records import Request, Sampler

log = logging.getLogger(__name__)

OPEN_REQUESTS = 256
"""Requests of one sampler that are in memory at the same time; more wait on disk."""


class SampleQueue:
    """The samples of one base model and the adapters on it, decoded together.

    `cache_bytes` is what its key-value cache may take beyond one context, which is always reserved.
    """

    def __init__(
        self, context: Context, base_model: str, on_end: Callable[[Request], None] = lambda _: None
    ) -> None:
        self.context = context
        self.base_model = base_model
        self.used = 0.0
        self.last = time.time()
        self.cache_bytes = 0
        self._on_end = on_end
        self._incoming: list[Request] = []
        self._dropped: list[str] = []
        self._open: dict[str, tuple[Request, BatchRequest]] = {}
        self._open_of: Counter[str] = Counter()
        # Whether a request has come or ended since the waiting ones were looked at.
        self._may_admit = False
        self._batch: SamplingBatch | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._incoming and not self._open

    @property
    def share(self) -> int:
        """How many clients it works for: it gets the time of so many runs."""
        return max(1, self._batch.clients) if self._batch is not None else 1

    def add(self, request: Request) -> None:
        """Add REQUEST, which joins the batch."""
        self.last = time.time()
        self._incoming.append(request)
        self._may_admit = True
        self.context.scheduler.wake(self)

    def open_requests(self) -> list[Request]:
        """Return the requests that are not done."""
        return [*list(self._incoming), *(request for request, _ in list(self._open.values()))]

    def drop(self, request_id: str) -> None:
        """Drop a request whose result nobody wants."""
        self._dropped.append(request_id)
        self.context.scheduler.wake(self)

    def sampled(self, request_id: str) -> list[list[int]]:
        """Return the tokens of each completion of a request so far; from any thread."""
        if request_id not in self._open:
            return []
        return [list(each.tokens) for each in list(self._open[request_id][1].completions)]

    def ready(self) -> bool:
        """Whether there is something to decode or to drop."""
        waiting = self._incoming or self._dropped
        return bool(waiting) or (self._batch is not None and self._batch.busy)

    def advance(self) -> None:
        """Add new requests to the batch, then compute prompts or one token of each sequence."""
        try:
            while self._dropped:
                self._drop(self._dropped.pop())
            if self._batch is None:
                self._batch = self._open_batch()
            self._admit_waiting(self._batch)
            self._batch.advance()
            self._report_progress()
            if not self._batch.busy:
                # The next batch is opened for the memory that is free then.
                self.evict()
        except StoppedBeforeCommit:
            raise
        except Exception as problem:
            log.exception("sampling from %s failed", self.base_model)
            for request in self.open_requests():
                self._fail(request, error_message(problem))
            self._batch, self._incoming, self.cache_bytes = None, [], 0
            if (base := self.context.residency.bases.get(self.base_model)) is not None:
                base.sampling_network.release()
        finally:
            self.context.crash_guard.clear()

    def _admit_waiting(self, batch: SamplingBatch) -> None:
        """Add waiting requests to the batch; the bodies of the others stay on disk."""
        if not self._may_admit:
            return
        self._may_admit = False
        for request in list(self._incoming):
            if self._open_of[request.queue] < OPEN_REQUESTS:
                self._admit(batch, request)
                self._incoming.remove(request)

    def _report_progress(self) -> None:
        progress = self.context.progress
        if watched := [each for each in self._open if progress.has_waiter(each)]:
            progress.notify(*watched)

    def evict(self) -> None:
        """Free the memory if idle; the next request loads the weights again."""
        if self.idle:
            self._batch, self.cache_bytes = None, 0

    def _open_batch(self) -> SamplingBatch:
        # If loading the base model kills the engine, each of them is to blame.
        self.context.crash_guard.mark_computing([request.id for request in self._incoming])
        residency = self.context.residency
        base = residency.base(self.base_model)
        tokens, self.cache_bytes = residency.reserve_cache(self.base_model)
        return SamplingBatch(
            base,
            base.sampling_network,
            rows=self.context.settings.sampling_rows,
            tokens=tokens,
            row_tokens=residency.row_tokens(base.served),
            reserve_adapter=partial(residency.reserve_adapter, self.base_model),
            mark_computing=self.context.crash_guard.mark_computing,
        )

    def _admit(self, batch: SamplingBatch, request: Request) -> None:
        base = self.context.residency.base(self.base_model)
        sampler = self.context.samplers.get(request.queue)
        if sampler is None:
            self._fail(request, "This sampler was deleted; create a new one")
            return
        try:
            check_interruptions(request)
            self.context.check_base(sampler)
            load_body(self.context, request)
            checked = plan(parse(request.payload), base.served, seed=0)
        except OperationFailed as problem:
            self._fail(request, str(problem), problem.category)
            return
        except Refused as refusal:
            # It was valid when it was accepted; its model has changed since.
            self._fail(request, str(refusal))
            return
        request.body = None
        entry = BatchRequest(
            checked,
            StopCondition(checked, base),
            done=lambda result: self._finish(request, result),
            failed=lambda message: self._fail(request, message),
            weights=lambda: _folder(sampler),
            client=sampler.session,
            owner=sampler.owner,
            name=request.id,
            alone=request.lost >= ISOLATE_AFTER,
        )
        self._open[request.id] = request, entry
        self._open_of[request.queue] += 1
        batch.add(entry)

    def _drop(self, request_id: str) -> None:
        held = [request for request in self._incoming if request.id == request_id]
        if request_id in self._open:
            request, entry = self._open[request_id]
            held.append(request)
            if self._batch is not None:
                self._batch.drop(entry)
        for request in held:
            if request in self._incoming:
                self._incoming.remove(request)
            write(self.context, partial(queries.drop, request=request))
            self._end(request)

    def _finish(self, request: Request, result: bytes) -> None:
        self._note_work(request)
        write(
            self.context,
            lambda db: queries.finish(db, request, protobuf.MEDIA_TYPE, result, keep_body=False),
        )
        self._end(request)

    def _note_work(self, request: Request) -> None:
        """Note in REQUEST, for traces, when its computing began and what was computed."""
        if request.id in self._open:
            _, entry = self._open[request.id]
            request.started, request.work = entry.started, json.dumps(entry.work())

    def _fail(self, request: Request, message: str, category: str = "server") -> None:
        self._note_work(request)
        write(self.context, lambda db: queries.fail(db, request, message, category))
        self._end(request)

    def _end(self, request: Request) -> None:
        if self._open.pop(request.id, None) is not None:
            self._open_of[request.queue] -= 1
            if not self._open_of[request.queue]:
                del self._open_of[request.queue]
        self._may_admit = True
        self._on_end(request)
        self.context.futures.notify(request.id)


def _folder(sampler: Sampler) -> Path | None:
    return Path(sampler.weights) if sampler.weights is not None else None
