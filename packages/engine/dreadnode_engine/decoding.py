"""Continuous batching: the samples drawn from one set of weights, decoded together.

New requests join while others run: their prompts are computed in one padded batch, and their rows
are added to the cache. A row leaves when its sample ends, whatever the others do.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as pb
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dreadnode_engine.bases import LoadedBase, Network
from dreadnode_engine.kvcache import SlotCache
from dreadnode_engine.prompts import PromptScores, score_prompt, topk_message
from dreadnode_engine.sampling import Drawer, Plan, Stopper, top_logprobs

PREFILL_TOKENS = 2048
"""Padded prompt tokens that are computed at once."""


@dataclass
class Sample:
    """One sample while it grows."""

    owner: "Ticket"
    drawer: Drawer
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Ticket:
    """One request on its way through the batch; `done` is called once, with the answer."""

    plan: Plan
    stopper: Stopper
    done: Callable[[bytes], None]
    sequences: list[Sample] = field(default_factory=list)
    open: int = 0
    scores: PromptScores | None = None


class Batch:
    """The requests on one set of weights. Not thread-safe: the computing thread owns it."""

    def __init__(self, base: LoadedBase, network: Network, *, rows: int, positions: int) -> None:
        self._base = base
        self._network = network
        self._rows = rows
        self._positions = positions
        self._waiting: deque[Ticket] = deque()
        self._cache = SlotCache()
        self._live: list[Sample] = []

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting or self._live)

    def add(self, ticket: Ticket) -> None:
        """Let TICKET join when there is room."""
        ticket.open = ticket.plan.samples
        self._waiting.append(ticket)

    @torch.no_grad()
    def advance(self) -> None:
        """Compute waiting prompts if there is room for them, else one token of every sequence."""
        if group := self._admissible():
            self._prefill(group)
        elif self._live:
            self._decode()

    def _admissible(self) -> list[tuple[Ticket, int]]:
        """Take from the queue, first come first served, what fits: tickets, and samples of each."""
        group: list[tuple[Ticket, int]] = []
        rows = self._rows - len(self._live)
        used = sum(_length(sequence.owner.plan) for sequence in self._live)
        widest = 0
        while self._waiting and rows > 0:
            ticket = self._waiting[0]
            width = max(widest, len(ticket.plan.prompt))
            if group and width * (len(group) + 1) > PREFILL_TOKENS:
                break
            left = ticket.plan.samples - len(ticket.sequences)
            room = (self._positions - used) // _length(ticket.plan)
            # A request too long for the budget runs alone rather than never.
            fit = min(left, rows, max(room, 0 if self._live or group else 1))
            if fit <= 0:
                break
            group.append((ticket, fit))
            widest, rows, used = width, rows - fit, used + fit * _length(ticket.plan)
            if fit < left:
                break
            self._waiting.popleft()
        return group

    def _prefill(self, group: Sequence[tuple[Ticket, int]]) -> None:
        lengths = [len(ticket.plan.prompt) for ticket, _ in group]
        padded = torch.zeros(len(group), max(lengths), dtype=torch.int64)
        for row, (ticket, _) in enumerate(group):
            padded[row, : lengths[row]] = torch.from_numpy(ticket.plan.prompt)
        cache = DynamicCache()
        hidden = self._network.hidden(
            padded.to(self._base.device), use_cache=True, past_key_values=cache
        )
        ends = torch.tensor(lengths, device=hidden.device) - 1
        last = torch.log_softmax(
            self._network.logits(hidden[torch.arange(len(group), device=hidden.device), ends]), -1
        )
        for row, (ticket, copies) in enumerate(group):
            plan = ticket.plan
            if plan.scores_prompt and ticket.scores is None:
                ticket.scores = score_prompt(self._network, hidden[row, : lengths[row]], plan)
            for _ in range(copies):
                sequence = Sample(ticket, Drawer(plan, len(ticket.sequences)))
                ticket.sequences.append(sequence)
                self._append(sequence, last[row], _top(plan, last[row : row + 1]))
                if not self._finished(sequence):
                    self._cache.admit(cache, row, lengths[row], 1)
                    self._live.append(sequence)

    def _decode(self) -> None:
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
        for row, sequence in enumerate(self._live):
            top = _top(sequence.owner.plan, logprobs[row : row + 1])
            self._append(sequence, logprobs[row], top)
        # From the end, because the last row moves into the place of one that leaves.
        for row in reversed(range(len(self._live))):
            if self._finished(self._live[row]):
                self._cache.remove(row)
                self._live[row] = self._live[-1]
                self._live.pop()

    def _append(self, sequence: Sample, logprobs: Tensor, top: Any) -> None:
        token = sequence.drawer.draw(logprobs)
        sequence.tokens.append(token)
        sequence.logprobs.append(float(logprobs[token]))
        if top is not None:
            sequence.top.append(top)

    def _finished(self, sequence: Sample) -> bool:
        """Whether SEQUENCE has ended; the request is answered with the last of its samples."""
        ticket = sequence.owner
        sequence.stopped = ticket.stopper.ends(sequence.tokens)
        if not sequence.stopped and len(sequence.tokens) < ticket.plan.max_tokens:
            return False
        ticket.open -= 1
        if ticket.open == 0:
            ticket.done(_encode(ticket))
        return True


def _length(plan: Plan) -> int:
    return len(plan.prompt) + plan.max_tokens


def _top(plan: Plan, logprobs: Tensor) -> Any:
    return top_logprobs(logprobs, plan.topk_sample) if plan.topk_sample else None


def _encode(ticket: Ticket) -> bytes:
    response = pb.SampleResponse()
    for sequence in ticket.sequences:
        message = response.sequences.add(
            stop_reason=pb.STOP_REASON_STOP if sequence.stopped else pb.STOP_REASON_LENGTH,
            tokens=np.array(sequence.tokens, dtype="<i4").tobytes(),
            logprobs=np.array(sequence.logprobs, dtype="<f4").tobytes(),
        )
        if sequence.top:
            ids, values = (np.concatenate(parts) for parts in zip(*sequence.top, strict=True))
            message.topk_sampled_logprobs.CopyFrom(topk_message(ids, values))
    if ticket.scores is not None:
        ticket.scores.write(response)
    return response.SerializeToString()
