"""The share of one client in a batch: its waiting requests, its rows, and its computing time."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from dreadnode_engine.compute.batch_request import BatchRequest, Completion
from dreadnode_engine.compute.kv_cache import SlotCache

STEP_ROWS = 8
"""A decoding step costs as much as so many rows before the first row: it reads the weights."""
PROMPT_TOKENS = 4
"""So many tokens of a prompt cost as much as one row of a decoding step."""


class Row(NamedTuple):
    """A completion in a cache, and its request."""

    request: BatchRequest
    completion: Completion


class SamplingClient:
    """One client. Its rows share a cache, so that it can be computed with or without others.

    Attributes:
        used: the computing it has had, in rows of decoding steps; clients with less go first.
        waiting: requests with completions that have not been started.
        paused: completions that gave their place to another client; they resume by a prefill.
        rows: completions in the cache, by slot.
    """

    def __init__(self, used: float) -> None:
        self.used = used
        self.waiting: deque[BatchRequest] = deque()
        self.paused: deque[Row] = deque()
        self.rows: list[Row] = []
        self.cache = SlotCache()

    @property
    def busy(self) -> bool:
        """Whether it has anything to do."""
        return bool(self.waiting or self.paused or self.rows)

    @property
    def starved(self) -> bool:
        """Whether it waits and has nothing in progress."""
        return bool(self.waiting) and not self.rows and not self.paused

    @property
    def requests(self) -> set[BatchRequest]:
        """The requests with rows."""
        return {row.request for row in self.rows}

    @property
    def span(self) -> int:
        """The most tokens that one of its rows may hold."""
        return max((row.request.span for row in self.rows), default=0)

    @property
    def step_cost(self) -> float:
        """What one decoding step of its rows alone costs, in rows."""
        return STEP_ROWS + len(self.rows)

    def tokens_with(self, rows: int, span: int) -> int:
        """Return the tokens that its cache may hold with ROWS more rows of SPAN tokens."""
        return (len(self.rows) + rows) * max(self.span, span)

    def add(self, rows: Sequence[Row]) -> None:
        """Add ROWS whose states are in the cache."""
        self.rows += rows

    def remove(self, slots: Sequence[int]) -> None:
        """Free SLOTS, which are sorted."""
        # From the end, because the last row moves into the place of one that leaves.
        for slot in reversed(slots):
            self.cache.remove(slot)
            self.rows[slot] = self.rows[-1]
            self.rows.pop()

    def drop(self, request: BatchRequest) -> None:
        """Remove everything of REQUEST."""
        if request in self.waiting:
            self.waiting.remove(request)
        self.paused = deque(row for row in self.paused if row.request is not request)
        self.remove([slot for slot, row in enumerate(self.rows) if row.request is request])

    def pause_newest(self) -> None:
        """Take the newest row out of the cache."""
        self.paused.append(self.rows[-1])
        self.remove([len(self.rows) - 1])
