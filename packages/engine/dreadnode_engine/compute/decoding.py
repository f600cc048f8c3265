"""Continuous batching: the samples drawn from one base model and its adapters, decoded together.

New requests join while others run: their prompts are computed in one padded batch, and their rows
are added to the cache. A row leaves when its sample ends, whatever the others do. Which adapter
computes a row is the request's affair (`mixed.py`).
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as pb
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dreadnode_engine.compute.kv_cache import SlotCache
from dreadnode_engine.compute.loaded_model import LoadedBase
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.prompt_logprobs import PromptScores, score_prompt, topk_message
from dreadnode_engine.compute.sampling import (
    Plan,
    StopCondition,
    TokenSampler,
    sample_rows,
    top_logprobs,
)
from dreadnode_engine.errors import OperationFailed

PREFILL_TOKENS = 2048
"""Padded prompt tokens that are computed at once."""


@dataclass(eq=False)
class Completion:
    """One sample while it grows."""

    owner: "BatchRequest"
    sampler: TokenSampler
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=list)
    stopped: bool = False


@dataclass(eq=False)
class BatchRequest:
    """One request on its way through the batch.

    Attributes:
        done: called once with the answer, unless the request fails or is dropped.
        failed: called once with what went wrong, if its weights cannot be had or used.
        weights: returns the folder of the adapter to draw from, None for the base model; asked
            again before every step, because the weights of a sampler may be replaced.
        client: whose request it is; clients take turns.
        name: what to call the request when it is said what is being computed.
        alone: whether no other request may be decoded with it.
    """

    plan: Plan
    stop_condition: StopCondition
    done: Callable[[bytes], None]
    failed: Callable[[str], None]
    weights: Callable[[], Path | None] = lambda: None
    client: str = ""
    name: str = ""
    alone: bool = False
    sequences: list[Completion] = field(default_factory=list)
    open: int = 0
    scores: PromptScores | None = None
    broken: bool = False


class SamplingBatch:
    """The requests on one base model. Not thread-safe: the computing thread owns it.

    `begin` is told the names of the tickets that are about to be computed.
    """

    def __init__(
        self,
        base: LoadedBase,
        network: MultiAdapterNetwork,
        *,
        rows: int,
        tokens: int,
        reserve_adapter: Callable[[Path], None] = lambda _: None,
        mark_computing: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        self._begin = mark_computing
        self._free_up = reserve_adapter
        self._base = base
        self._network = network
        self._rows = rows
        self._tokens = tokens
        self._waiting: dict[str, deque[BatchRequest]] = {}
        self._cache = SlotCache()
        self._live: list[Completion] = []

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting or self._live)

    @property
    def clients(self) -> int:
        """How many clients have something to do here."""
        return len(self._waiting.keys() | {sequence.owner.client for sequence in self._live})

    def add(self, request: BatchRequest) -> None:
        """Let TICKET join when there is room and its client has its turn."""
        request.open = request.plan.samples
        self._waiting.setdefault(request.client, deque()).append(request)

    def drop(self, request: BatchRequest) -> None:
        """Draw nothing more for TICKET; its rows are free at once."""
        if request in self._waiting.get(request.client, ()):
            self._waiting[request.client].remove(request)
            if not self._waiting[request.client]:
                del self._waiting[request.client]
        self._remove([row for row, sample in enumerate(self._live) if sample.owner is request])

    @torch.no_grad()
    def advance(self) -> None:
        """Compute waiting prompts if there is room for them, else one token of every sequence."""
        if group := self._next_prefill():
            self._prefill(group)
        elif self._live:
            self._decode()
        for request in {sample.owner for sample in self._live if sample.owner.broken}:
            self.drop(request)
            request.failed("The logits of these weights are not numbers; training made them so")

    def _next_prefill(self) -> list[tuple[BatchRequest, int]]:
        """Take what fits, one request of each client in turn: tickets, and samples of each."""
        group: list[tuple[BatchRequest, int]] = []
        rows = self._rows - len(self._live)
        taken = len(self._live)
        longest = max((_length(sequence.owner.plan) for sequence in self._live), default=0)
        widest = 0
        while self._waiting and rows > 0:
            request = next(iter(self._waiting.values()))[0]
            width = max(widest, len(request.plan.prompt))
            if group and width * (len(group) + 1) > PREFILL_TOKENS:
                break
            left = request.plan.samples - len(request.sequences)
            # In the cache every row is as long as the longest.
            span = max(longest, _length(request.plan))
            room = self._tokens // span - taken
            # A request too long for the budget runs alone rather than never.
            fit = min(left, rows, max(room, 0 if self._live or group else 1))
            try:
                if fit <= 0 or not self._can_join(request, group):
                    break
            except OperationFailed as problem:
                self.drop(request)
                request.failed(str(problem))
                continue
            group.append((request, fit))
            widest, longest, rows, taken = width, span, rows - fit, taken + fit
            self._next_client(done=fit == left)
            if fit < left:
                break
        return group

    def _can_join(self, request: BatchRequest, group: Sequence[tuple[BatchRequest, int]]) -> bool:
        """Whether there is room for the adapter of TICKET beside those of GROUP and who is live."""
        company = {other for other, _ in group} | {sample.owner for sample in self._live}
        if any(request.alone or other.alone for other in company - {request}):
            return False
        self._begin([request.name])
        folder = request.weights()
        if folder is None:
            return True
        self._network.reload(folder)
        if not self._network.is_loaded(folder):
            self._free_up(folder)
        beside = [other.weights() for other, _ in group]
        return self._network.fits([*beside, *self._folders()], folder)

    def _folders(self) -> list[Path | None]:
        return [sequence.owner.weights() for sequence in self._live]

    def _next_client(self, *, done: bool) -> None:
        """Let the next client have its turn, and the request looked at leave its queue if DONE."""
        client = next(iter(self._waiting))
        fifo = self._waiting.pop(client)
        if done:
            fifo.popleft()
        if fifo:
            self._waiting[client] = fifo

    def _prefill(self, group: Sequence[tuple[BatchRequest, int]]) -> None:
        self._begin([request.name for request, _ in group])
        lengths = [len(request.plan.prompt) for request, _ in group]
        padded = torch.zeros(len(group), max(lengths), dtype=torch.int64)
        for row, (request, _) in enumerate(group):
            padded[row, : lengths[row]] = torch.from_numpy(request.plan.prompt)
        cache = DynamicCache()
        self._network.assign_rows(
            [request.weights() for request, _ in group], beside=self._folders()
        )
        hidden = self._network.hidden(
            padded.to(self._base.device), use_cache=True, past_key_values=cache
        )
        reached = torch.tensor(lengths, device=hidden.device) - 1
        last = torch.log_softmax(
            self._network.logits(hidden[torch.arange(len(group), device=hidden.device), reached]),
            -1,
        )
        for row, (request, copies) in enumerate(group):
            plan = request.plan
            if plan.scores_prompt and request.scores is None:
                with self._network.only(row):
                    states = hidden[row, : lengths[row]]
                    request.scores = score_prompt(self._network, states, plan)
            number = len(request.sequences)
            new = [Completion(request, TokenSampler(plan, number + i)) for i in range(copies)]
            request.sequences += new
            self._sample_next(new, last[row].expand(copies, -1))
            going = [sequence for sequence in new if not self._finish_if_ended(sequence)]
            if going:
                self._cache.admit(cache, row, lengths[row], len(going))
                self._live += going

    def _decode(self) -> None:
        self._begin({sample.owner.name for sample in self._live})
        self._network.assign_rows(self._folders())
        places, mask = self._cache.begin_step()
        newest = torch.tensor([[sequence.tokens[-1]] for sequence in self._live])
        hidden = self._network.hidden(
            newest.to(self._base.device),
            position_ids=places,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        logprobs = torch.log_softmax(self._network.logits(hidden[:, -1]), dim=-1)
        self._sample_next(self._live, logprobs)
        self._remove(
            [row for row, sample in enumerate(self._live) if self._finish_if_ended(sample)]
        )

    def _remove(self, rows: Sequence[int]) -> None:
        """Free ROWS, which are in order."""
        # From the end, because the last row moves into the place of one that leaves.
        for row in reversed(rows):
            self._cache.remove(row)
            self._live[row] = self._live[-1]
            self._live.pop()
        if not self._live:
            self._network.release()

    def _sample_next(self, sequences: Sequence[Completion], logprobs: Tensor) -> None:
        """Draw the next token of each of SEQUENCES from its row of LOGPROBS."""
        tokens, scores = sample_rows([sequence.sampler for sequence in sequences], logprobs)
        for row, sequence in enumerate(sequences):
            sequence.tokens.append(tokens[row])
            sequence.logprobs.append(scores[row])
            sequence.owner.broken |= math.isnan(scores[row])
            if k := sequence.owner.plan.topk_sample:
                sequence.top.append(top_logprobs(logprobs[row : row + 1], k))

    def _finish_if_ended(self, sequence: Completion) -> bool:
        """Whether SEQUENCE has ended; the request is answered with the last of its samples."""
        request = sequence.owner
        if request.broken:
            return False  # It is given up as a whole, when the step is over.
        sequence.stopped = request.stop_condition.reached(sequence.tokens)
        if not sequence.stopped and len(sequence.tokens) < request.plan.max_tokens:
            return False
        request.open -= 1
        if request.open == 0:
            request.done(_encode_response(request))
        return True


def _length(plan: Plan) -> int:
    return len(plan.prompt) + plan.max_tokens


def _encode_response(request: BatchRequest) -> bytes:
    response = pb.SampleResponse()
    for sequence in request.sequences:
        message = response.sequences.add(
            stop_reason=pb.STOP_REASON_STOP if sequence.stopped else pb.STOP_REASON_LENGTH,
            tokens=np.array(sequence.tokens, dtype="<i4").tobytes(),
            logprobs=np.array(sequence.logprobs, dtype="<f4").tobytes(),
        )
        if sequence.top:
            ids, values = (np.concatenate(parts) for parts in zip(*sequence.top, strict=True))
            message.topk_sampled_logprobs.CopyFrom(topk_message(ids, values))
    if request.scores is not None:
        request.scores.write(response)
    return response.SerializeToString()
