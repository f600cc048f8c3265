"""Schedules groups of rollouts for the three execution modes, so that none gets too stale.

Time is counted in steps done. A group of rollouts is sampled by weights of some version, and may be
trained on while `step - version <= bound`. Synchronous training has the groups of one step in
flight; asynchronous training has those of LEAD more steps, so that sampling and training overlap.

At most `(lead + 1) * per_step` groups are in flight. A step takes the finished groups with the
earliest deadlines, and waits until the remaining ones can still be trained on in time. So no group
is discarded, and none is trained on too late.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dreadnode_runtime.control.events import Stop

STOP_CHECK_INTERVAL = 0.25
"""Seconds between two checks whether the loop must end."""
S = TypeVar("S")
G = TypeVar("G")


@dataclass(frozen=True, slots=True, eq=False)
class _Started(Generic[G]):
    index: int
    version: int
    task: "asyncio.Future[G]"


class RolloutScheduler(Generic[S, G]):
    """Starts groups of rollouts and hands them out before they are too stale.

    Args:
        start: Starts the group of an index, with a sampler.
        per_step: Groups of one step.
        lead: Number of steps whose groups may be in flight beyond those of the current step.
        bound: Maximum staleness, in steps, of a group's weights when it is trained on.
        in_order: Whether groups are trained on in the order in which they were started.
        first: Index of the first group.
        total: Index after the last group.
    """

    def __init__(
        self,
        start: Callable[[int, S], Awaitable[G]],
        *,
        per_step: int,
        lead: int,
        bound: int,
        in_order: bool,
        first: int,
        total: int,
    ) -> None:
        self._start = start
        self._per_step = per_step
        self._capacity = (lead + 1) * per_step
        self._bound = bound
        self._in_order = in_order
        self._next = first
        self._total = total
        self._in_flight: list[_Started[G]] = []
        self.max_pending = 0

    @property
    def pending(self) -> int:
        """Number of groups that were started and not yet handed out."""
        return len(self._in_flight)

    @property
    def started(self) -> int:
        """Index after the newest group."""
        return self._next

    def fill(self, sampler: S, version: int) -> None:
        """Start groups, sampled by SAMPLER with weights of VERSION, up to the capacity."""
        while self._next < self._total and len(self._in_flight) < self._capacity:
            task = asyncio.ensure_future(self._start(self._next, sampler))
            self._in_flight.append(_Started(self._next, version, task))
            self._next += 1
        self.max_pending = max(self.max_pending, len(self._in_flight))

    async def take(self, step: int, stop: Stop) -> list[tuple[int, G]]:
        """Wait for the groups to train on after STEP steps; return each with its staleness.

        Returns an empty list if STOP ends the loop.

        Raises:
            Exception: The error of a rollout.
        """
        while True:
            if stop.requested:
                return []
            for group in self._in_flight:
                if group.task.done():
                    group.task.result()  # Raises its error, even if the group is not chosen.
            if chosen := self._choose(step):
                self._in_flight = [g for g in self._in_flight if g not in chosen]
                chosen.sort(key=lambda group: group.index)
                return [(step - group.version, group.task.result()) for group in chosen]
            unfinished = [group.task for group in self._in_flight if not group.task.done()]
            await asyncio.wait(
                unfinished, timeout=STOP_CHECK_INTERVAL, return_when=asyncio.FIRST_COMPLETED
            )

    def close(self) -> None:
        """Cancel the groups in flight."""
        for group in self._in_flight:
            group.task.cancel()

    def _choose(self, step: int) -> list[_Started[G]]:
        """Return the groups of this step; an empty list while it must wait."""
        count = min(self._per_step, len(self._in_flight))
        if self._in_order:
            chosen = self._in_flight[:count]
            return chosen if all(group.task.done() for group in chosen) else []
        finished = [group for group in self._in_flight if group.task.done()]
        chosen = sorted(finished, key=lambda group: (group.version, group.index))[:count]
        if len(chosen) < count:
            return []
        return chosen if self._meets_deadlines(step, chosen) else []

    def _meets_deadlines(self, step: int, chosen: list[_Started[G]]) -> bool:
        """Whether all other groups fit into the following steps before they are too stale.

        By earliest deadline first, n steps can take n * per_step groups: that must be enough for
        the groups whose deadline is at most n steps away, for every n.
        """
        steps_left = [
            group.version + self._bound - step for group in self._in_flight if group not in chosen
        ]
        return all(
            sum(left <= steps for left in steps_left) <= steps * self._per_step
            for steps in range(self._bound + 1)
        )
