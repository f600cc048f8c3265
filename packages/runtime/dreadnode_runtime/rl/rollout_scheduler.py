"""Which rollouts to start and which to learn from, so that none is too old: the three modes in one.

Time is counted in steps done. A group of rollouts is drawn by weights of some age, its version, and
may be learnt from while `step - version <= bound`. Synchronous training has as many groups under
way as one step takes; asynchronous training has LEAD steps' worth more, so that sampling goes on
while training does.

At most `(lead + 1) * per_step` groups are under way, and those of a step are chosen among the
finished ones by earliest deadline; a step waits until what remains can still be learnt from in
time. So nothing that was drawn is thrown away, and nothing is learnt from too late.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dreadnode_runtime.control.events import Stop

LOOK_EVERY = 0.25
"""Seconds between two looks at whether the loop is to end."""
S = TypeVar("S")
G = TypeVar("G")


@dataclass(frozen=True, slots=True, eq=False)
class _Started(Generic[G]):
    index: int
    version: int
    task: "asyncio.Future[G]"


class Feed(Generic[S, G]):
    """Starts groups of rollouts and hands them out in time.

    Args:
        start: Starts the group of an index, drawn by a sampler.
        per_step: Groups of one step.
        lead: Steps' worth of groups under way beyond those of the present step.
        bound: How many steps a group's weights may be behind when it is learnt from.
        in_order: Whether groups are learnt from in the order in which they were started.
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
        self._room = (lead + 1) * per_step
        self._bound = bound
        self._in_order = in_order
        self._next = first
        self._total = total
        self._under_way: list[_Started[G]] = []
        self.most_pending = 0

    @property
    def pending(self) -> int:
        """How many groups were started and not yet learnt from."""
        return len(self._under_way)

    @property
    def started(self) -> int:
        """Index after the newest group."""
        return self._next

    def fill(self, sampler: S, version: int) -> None:
        """Start groups, drawn by SAMPLER with the weights of VERSION, while there is room."""
        while self._next < self._total and len(self._under_way) < self._room:
            task = asyncio.ensure_future(self._start(self._next, sampler))
            self._under_way.append(_Started(self._next, version, task))
            self._next += 1
        self.most_pending = max(self.most_pending, len(self._under_way))

    async def take(self, step: int, stop: Stop) -> list[tuple[int, G]]:
        """Wait for the groups to learn from after STEP steps, each with the age of its weights.

        Nothing, if STOP says so.

        Raises:
            Exception: What a rollout ended with.
        """
        while True:
            if stop.requested:
                return []
            for group in self._under_way:
                if group.task.done():
                    group.task.result()  # Raises what it ended with, whether it is chosen or not.
            if chosen := self._choose(step):
                self._under_way = [g for g in self._under_way if g not in chosen]
                chosen.sort(key=lambda group: group.index)
                return [(step - group.version, group.task.result()) for group in chosen]
            waiting = [group.task for group in self._under_way if not group.task.done()]
            await asyncio.wait(waiting, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)

    def close(self) -> None:
        """End what is under way."""
        for group in self._under_way:
            group.task.cancel()

    def _choose(self, step: int) -> list[_Started[G]]:
        """Return the groups of this step, or none while it has to wait."""
        wanted = min(self._per_step, len(self._under_way))
        if self._in_order:
            chosen = self._under_way[:wanted]
            return chosen if all(group.task.done() for group in chosen) else []
        finished = [group for group in self._under_way if group.task.done()]
        chosen = sorted(finished, key=lambda group: (group.version, group.index))[:wanted]
        if len(chosen) < wanted:
            return []
        return chosen if self._leaves_time(step, chosen) else []

    def _leaves_time(self, step: int, chosen: list[_Started[G]]) -> bool:
        """Whether all others can be learnt from in the following steps before they are too old."""
        others = [
            group.version + self._bound - step for group in self._under_way if group not in chosen
        ]
        return all(
            sum(left <= steps for left in others) <= steps * self._per_step
            for steps in range(self._bound + 1)
        )
