"""A small fair queue for work that may run only a few times at once, such as checks and exports.

A free slot goes to the organization with the fewest running pieces of work; among equals, to the
one that was served longest ago. One organization holds at most half of the slots, so that another
one never waits for all of them to end. Within an organization the first to ask is served first.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dreadnode_api.errors import TooManyRequests

RETRY_SECONDS = 5


@dataclass(slots=True)
class Slot:
    """The right to run one piece of work, until `release`."""

    _release: Callable[[], None] | None

    def release(self) -> None:
        """Give the slot to the next caller; a second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


class FairQueue:
    """Slots that organizations share.

    Args:
        slots: how many pieces of work run at once.
        work: what runs there, in the plural, for the message of a refusal.
        wait_seconds: the longest wait for a slot; None means no limit.
        waiting: how many of one organization may wait; one more is refused immediately.
    """

    def __init__(
        self, slots: int, work: str, *, wait_seconds: float | None, waiting: int | None = None
    ) -> None:
        self._free = slots
        self._most = max(1, slots // 2)
        self._work = work
        self._wait_seconds = wait_seconds
        self._waiting_most = waiting
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        # The turn in which a group was served last; groups without work are deleted.
        self._served: Counter[str] = Counter()
        self._turn = 0

    @asynccontextmanager
    async def slot(self, group: str) -> AsyncIterator[None]:
        """Hold a slot for the organization with the id GROUP.

        Raises:
            TooManyRequests: no slot became free in time, or too many of the organization wait.
        """
        slot = await self.acquire(group)
        try:
            yield
        finally:
            slot.release()

    def try_acquire(self, group: str) -> Slot | None:
        """Return a slot for the organization with the id GROUP, if one is free now."""
        if not self._free or self._running[group] >= self._most:
            self._drop_idle(group)
            return None
        self._take(group)
        return Slot(lambda: self._release(group))

    async def acquire(self, group: str) -> Slot:
        """Return a slot for the organization with the id GROUP, which the caller must release.

        Raises:
            TooManyRequests: no slot became free in time, or too many of the organization wait.
        """
        waiting = self._waiting.setdefault(group, deque())
        if self._waiting_most is not None and len(waiting) >= self._waiting_most:
            raise busy(f"{len(waiting)} {self._work} of your organization already wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        self._hand_out()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            self._withdraw(group, turn)
            raise busy(
                f"No slot for {self._work} became free within {self._wait_seconds:g} s"
            ) from None
        except asyncio.CancelledError:
            self._withdraw(group, turn)
            raise
        return Slot(lambda: self._release(group))

    def _withdraw(self, group: str, turn: asyncio.Future[None]) -> None:
        """Stop waiting; a slot that was handed out at this very moment goes to the next caller."""
        if turn.done() and not turn.cancelled():
            self._release(group)
            return
        turn.cancel()
        waiting = self._waiting.get(group, deque())
        if turn in waiting:
            waiting.remove(turn)
        self._drop_idle(group)

    def _take(self, group: str) -> None:
        self._free -= 1
        self._turn += 1
        self._running[group] += 1
        self._served[group] = self._turn

    def _release(self, group: str) -> None:
        self._free += 1
        self._running[group] -= 1
        self._drop_idle(group)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free:
            for waiting in self._waiting.values():
                # A caller that is being cancelled has not yet left the queue.
                while waiting and waiting[0].done():
                    waiting.popleft()
            ready = [
                group
                for group, waiting in self._waiting.items()
                if waiting and self._running[group] < self._most
            ]
            if not ready:
                return
            group = min(ready, key=lambda each: (self._running[each], self._served[each]))
            self._take(group)
            self._waiting[group].popleft().set_result(None)

    def _drop_idle(self, group: str) -> None:
        if not self._waiting.get(group) and not self._running[group]:
            for table in (self._waiting, self._running, self._served):
                table.pop(group, None)


def busy(message: str) -> TooManyRequests:
    """Return the error for a caller that may try again soon."""
    return TooManyRequests(
        f"{message}; try again in {RETRY_SECONDS} s", headers={"Retry-After": str(RETRY_SECONDS)}
    )
