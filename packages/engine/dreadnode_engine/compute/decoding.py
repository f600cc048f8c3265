"""Continuous batching: the samples of one base model and its adapters, decoded together.

Requests join while others are decoded: their prompts are computed in one padded batch, and their
rows are added to their client's cache. A row leaves when its completion ends. Its request says
which adapter computes it (`multi_adapter.py`).

Clients share the computing equally: each step computes the clients that have had the least. So a
client with one row takes steps of its own between those of a client with many, and clients with
equally many rows take every step together. When there is no room for a client that has no rows, the
client that has had the most pauses a row, whose cache is computed again when there is room.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.kv_cache import SlotStep
from dreadnode_engine.compute.loaded_model import LoadedBase
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.prefill import PREFILL_TOKENS, Prefilled, prefill, prefill_after
from dreadnode_engine.compute.prefix_cache import PrefixCache, Scope
from dreadnode_engine.compute.sampling import sample_rows, top_logprobs
from dreadnode_engine.compute.sampling_client import PROMPT_TOKENS, Row, SamplingClient
from dreadnode_engine.errors import OperationFailed

NAN_LOGITS = "The logits of these weights are NaN: training diverged; use an earlier checkpoint"


class SamplingBatch:
    """The requests on one base model. The computing thread owns it.

    `mark_computing` is called with the names of the requests that are about to be computed. The
    recurrent states of a row take the room of `row_tokens` tokens.
    """

    def __init__(
        self,
        base: LoadedBase,
        network: MultiAdapterNetwork,
        *,
        rows: int,
        tokens: int,
        row_tokens: int = 0,
        reserve_adapter: Callable[[Path], None] = lambda _: None,
        mark_computing: Callable[[Iterable[str]], None] = lambda _: None,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self._mark_computing = mark_computing
        self._reserve_adapter = reserve_adapter
        self._base = base
        self._network = network
        self._row_limit = rows
        self._token_limit = tokens
        self._row_tokens = row_tokens
        self._prefixes = base.prefixes if prefixes is None else prefixes
        self._clients: dict[str, SamplingClient] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._clients)

    @property
    def clients(self) -> int:
        """How many clients have something to do."""
        return len(self._clients)

    @property
    def rows(self) -> list[Row]:
        """All rows that are decoded."""
        return [row for client in self._clients.values() for row in client.rows]

    def add(self, request: BatchRequest) -> None:
        """Add REQUEST, which joins when there is room and its client's turn comes."""
        if request.client not in self._clients:
            # Time without requests gives no claim: a client starts where the first of others is.
            used = min((client.used for client in self._clients.values()), default=0.0)
            self._clients[request.client] = SamplingClient(used)
        request.open = request.plan.samples
        self._clients[request.client].waiting.append(request)

    def drop(self, request: BatchRequest) -> None:
        """Stop sampling for REQUEST and free its rows immediately."""
        if (client := self._clients.get(request.client)) is not None:
            client.drop(request)
            self._remove_idle()

    @torch.no_grad()
    def advance(self) -> None:
        """Compute prompts that are due and have room, else one token of the rows that are due."""
        clients = sorted(self._clients.values(), key=lambda client: client.used)
        # If no client that is due can be computed, for want of room, the next ones are.
        _ = self._compute(self._due(clients)) or self._compute(clients)
        for row in self.rows:
            if row.request.broken and row.request in self._clients[row.request.client].requests:
                self._clients[row.request.client].drop(row.request)
                row.request.failed(NAN_LOGITS)
        self._remove_idle()

    def _due(self, clients: Sequence[SamplingClient]) -> list[SamplingClient]:
        """Return those of CLIENTS that have had the least, within one step of the first."""
        limit = clients[0].used + clients[0].step_cost if clients else 0.0
        return [client for client in clients if client.used < limit]

    def _compute(self, clients: Sequence[SamplingClient]) -> bool:
        """Compute prompts or one token of CLIENTS, which are in order; whether anything was."""
        if self._resume_paused(clients):
            return True
        if group := self._next_started(clients):
            self._prefill(group)
            return True
        stepping = [client for client in clients if client.rows]
        if stepping:
            self._decode(stepping)
        return bool(stepping)

    def _next_started(self, due: Sequence[SamplingClient]) -> list[tuple[BatchRequest, int]]:
        """Choose waiting requests that fit, one of each client in turn, and samples of each."""
        group: list[tuple[BatchRequest, int]] = []
        widest = 0
        turns = [client for client in due if client.waiting]
        looked: dict[SamplingClient, int] = dict.fromkeys(turns, 0)
        while turns:
            client = turns.pop(0)
            request = client.waiting[looked[client]]
            widest = max(widest, len(request.plan.prompt))
            if group and widest * (len(group) + 1) > PREFILL_TOKENS:
                break
            try:
                count = self._fitting(client, request, group)
            except OperationFailed as problem:
                client.drop(request)
                request.failed(str(problem))
                if looked[client] < len(client.waiting):
                    turns.append(client)
                continue
            if not count:
                continue
            group.append((request, count))
            looked[client] += 1
            if count == request.unstarted and looked[client] < len(client.waiting):
                turns.append(client)
        return group

    def _resume_paused(self, clients: Sequence[SamplingClient]) -> bool:
        """Resume one paused row of the first of CLIENTS that has any, if there is room for it.

        One at a time, so that no other client waits until all are computed again.
        """
        for client in clients:
            if client.paused:
                row = client.paused[0]
                # Without any row in memory, one is resumed at any size.
                room = not self.rows or self._has_room(client, row.request, 1, ())
                if room and self._can_join(row.request, []):
                    self._resume(client, row)
                    return True
            if client.paused or client.starved:
                return False  # What becomes free is for this one.
        return False

    def _fitting(
        self,
        client: SamplingClient,
        request: BatchRequest,
        group: Sequence[tuple[BatchRequest, int]],
    ) -> int:
        """Return how many samples of REQUEST can join now, beside GROUP."""
        first = client.starved and not any(other.client == request.client for other, _ in group)
        count = request.unstarted
        while count and not self._has_room(client, request, count, group):
            count -= 1
        while first and not count and self._pause_other(client):
            count = int(self._has_room(client, request, 1, group))
        # A request that needs more than all memory is computed alone rather than never.
        if not count and not group and not self.rows:
            count = 1
        return count if count and self._can_join(request, group) else 0

    def _has_room(
        self,
        client: SamplingClient,
        request: BatchRequest,
        count: int,
        group: Sequence[tuple[BatchRequest, int]],
    ) -> bool:
        """Whether COUNT rows of REQUEST fit beside all rows and those of GROUP."""
        rows = dict.fromkeys(self._clients.values(), 0)
        spans = dict.fromkeys(self._clients.values(), 0)
        for other, number in [*group, (request, count)]:
            owner = self._clients[other.client]
            rows[owner] += number
            spans[owner] = max(spans[owner], other.span)
        total = sum(len(c.rows) + rows[c] for c in rows)
        tokens = sum(c.tokens_with(rows[c], spans[c]) for c in rows)
        tokens += total * self._row_tokens
        return total <= self._row_limit and tokens <= self._token_limit

    def _pause_other(self, client: SamplingClient) -> bool:
        """Pause a row of the client with the most computing; False if there is none."""
        others = [c for c in self._clients.values() if c is not client and len(c.rows) > 1]
        others = others or [
            c for c in self._clients.values() if c is not client and c.rows and c.used > client.used
        ]
        if not others:
            return False
        max(others, key=lambda other: other.used).pause_newest()
        return True

    def _can_join(self, request: BatchRequest, group: Sequence[tuple[BatchRequest, int]]) -> bool:
        """Whether REQUEST may be computed beside GROUP and all rows, and its adapter fits."""
        company = {other for other, _ in group} | {row.request for row in self.rows}
        if any(request.alone or other.alone for other in company - {request}):
            return False
        self._mark_computing([request.name])
        folder = request.weights()
        if folder is None:
            return True
        self._network.reload(folder)
        if not self._network.is_loaded(folder):
            self._reserve_adapter(folder)
        beside = [other.weights() for other in company]
        return self._network.fits(beside, folder)

    def _folders(self, rows: Iterable[Row]) -> list[Path | None]:
        return [row.request.weights() for row in rows]

    def _prefill(self, group: Sequence[tuple[BatchRequest, int]]) -> None:
        """Compute the prompts of GROUP, and sample the first token of each new completion."""
        # Read once: the event loop may replace the weights of a sampler at any time.
        folders = {request: request.weights() for request, _ in group}
        scopes = {r: (r.owner, self._network.number(folder)) for r, folder in folders.items()}
        together: list[tuple[BatchRequest, int]] = []
        later: list[tuple[BatchRequest, int]] = []
        for request, copies in group:
            request.started = request.started or time.time()
            plan, scope = request.plan, scopes[request]
            # Of requests with the same prompt the first is computed; the others find it cached.
            known = self._prefixes.find(scope, plan.prompt)[0] or any(
                scopes[other] == scope and np.array_equal(other.plan.prompt, plan.prompt)
                for other, _ in together
            )
            (later if known and not plan.scores_prompt else together).append((request, copies))
        # A recurrent layer would read the padding of a shorter prompt.
        size = 1 if self._network.recurrent else max(1, len(together))
        for part in (together[i : i + size] for i in range(0, len(together), size)):
            self._mark_computing([request.name for request, _ in part])
            requests = [request for request, _ in part]
            beside = self._folders(self.rows)
            self._network.assign_rows([folders[request] for request in requests], beside=beside)
            computed = prefill(self._network, [r.plan.prompt for r in requests], requests)
            for index, (request, copies) in enumerate(part):
                self._start(request, copies, scopes[request], computed, index)
        for request, copies in later:
            self._mark_computing([request.name])
            self._network.assign_rows([folders[request]], beside=self._folders(self.rows))
            self._prefill_cached(request, copies, scopes[request])

    def _prefill_cached(self, request: BatchRequest, copies: int, scope: Scope) -> None:
        """Compute what is not cached of one prompt."""
        prompt = request.plan.prompt
        request.cached_tokens, prefix = self._prefixes.find(scope, prompt)
        if request.cached_tokens:
            computed = prefill_after(self._network, prompt, prefix, request.cached_tokens)
        else:
            computed = prefill(self._network, [prompt], [])
        self._start(request, copies, scope, computed, 0)

    def _start(
        self,
        request: BatchRequest,
        copies: int,
        scope: Scope,
        computed: Prefilled,
        index: int,
    ) -> None:
        """Start COPIES completions of REQUEST, whose prompt is COMPUTED in the row INDEX."""
        client = self._clients[request.client]
        length = len(request.plan.prompt)
        states, kept = computed.reusable or (computed.states, length)
        self._prefixes.add(scope, request.plan.prompt[:kept], states, index)
        client.used += (length - request.cached_tokens) / PROMPT_TOKENS
        rows = [Row(request, request.start_completion(scope)) for _ in range(copies)]
        if not request.unstarted:
            client.waiting.remove(request)
        self._sample(rows, computed.logprobs[index].expand(copies, -1))
        going = [row for row in rows if not self._end(row)]
        if going:
            client.cache.admit(computed.states, index, length, len(going))
            client.add(going)

    def _keep_completion(self, client: SamplingClient, slot: int) -> None:
        """Cache a single completion with its prompt: the next turn of a chat begins with it."""
        request, completion = client.rows[slot]
        if request.plan.samples == 1 and completion.scope is not None:
            # The last token is not in the cache of the row.
            tokens = np.concatenate([request.plan.prompt, completion.tokens[:-1]]).astype(np.int64)
            self._prefixes.add(completion.scope, tokens, client.cache.states_of(slot), 0)

    def _resume(self, client: SamplingClient, row: Row) -> None:
        """Compute the cache of a paused ROW again; what it samples next does not change."""
        self._mark_computing([row.request.name])
        # The last token is not in the cache: the next step computes it.
        tokens = np.concatenate([row.request.plan.prompt, row.completion.tokens[:-1]])
        self._network.assign_rows([row.request.weights()], beside=self._folders(self.rows))
        states = prefill(self._network, [tokens.astype(np.int64)], []).states
        client.cache.admit(states, 0, len(tokens), 1)
        client.add([row])
        client.paused.remove(row)
        client.used += len(tokens) / PROMPT_TOKENS

    def _decode(self, clients: Sequence[SamplingClient]) -> None:
        """Compute one token of every row of CLIENTS."""
        rows = [row for client in clients for row in client.rows]
        requests = {row.request for row in rows}
        self._mark_computing({request.name for request in requests})
        for request in requests:
            request.steps += 1
            request.step_rows += len(rows)
        self._network.assign_rows(self._folders(rows), beside=self._folders(self.rows))
        for row, number in zip(rows, self._network.row_numbers, strict=True):
            if row.completion.scope not in (None, (row.request.owner, number)):
                # Its weights were replaced: its cache is of two adapters, and no other may use it.
                row.completion.scope = None
        step = SlotStep([client.cache for client in clients])
        newest = torch.tensor([row.completion.tokens[-1] for row in rows])
        hidden = self._network.decode(newest.to(self._base.device), step)
        self._sample(rows, torch.log_softmax(self._network.logits(hidden), dim=-1))
        for client in clients:
            client.used += client.step_cost
            ended = [slot for slot, row in enumerate(client.rows) if self._end(row)]
            for slot in ended:
                self._keep_completion(client, slot)
            client.remove(ended)

    def _sample(self, rows: Sequence[Row], logprobs: Tensor) -> None:
        """Sample the next token of each of ROWS from LOGPROBS (rows, vocabulary)."""
        tokens, scores = sample_rows([row.completion.sampler for row in rows], logprobs)
        for index, row in enumerate(rows):
            row.completion.tokens.append(tokens[index])
            row.completion.logprobs.append(scores[index])
            row.request.broken |= math.isnan(scores[index])
            if k := row.request.plan.topk_sample:
                row.completion.top.append(top_logprobs(logprobs[index : index + 1], k))

    def _end(self, row: Row) -> bool:
        """Whether ROW has ended; the last completion of a request finishes it."""
        if row.request.broken:
            return False  # The whole request fails after the step.
        if not row.completion.ended():
            return False
        row.request.open -= 1
        if row.request.open == 0:
            row.request.done(row.request.encode())
        return True

    def _remove_idle(self) -> None:
        self._clients = {name: client for name, client in self._clients.items() if client.busy}
        if not self.rows:
            self._network.release()
