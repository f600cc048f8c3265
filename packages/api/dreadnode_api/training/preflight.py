"""The checks of jobs that are being created: shared, bounded, and ended with their last caller.

Equal checks run once, and every caller waits for the same result. A check that nobody waits for any
more ends at once. The result is stored for the next job on the same data.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from dreadnode_api.db import Database
from dreadnode_api.fair_queue import FairQueue, Slot, busy
from dreadnode_api.settings import Settings
from dreadnode_api.training import check_results
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import Checker, CheckResult

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""How many checks of one organization may wait."""


@dataclass(slots=True)
class RunningCheck:
    """A check that waits for a slot or runs.

    Attributes:
        slot: its slot, once it has one.
        in_background: whether the slot is one for slow checks.
        callers: how many wait for it.
    """

    task: asyncio.Task[CheckResult] = field(init=False)
    slot: Slot | None = None
    in_background: bool = False
    callers: int = 0

    async def result(self, seconds: float | None = None) -> CheckResult | None:
        """Return the result, or None if the check runs and is not done after SECONDS.

        Raises:
            TooManyRequests: the check has not even started after SECONDS.
            CheckFailed: the check failed without a reason of its own.
        """
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        if done:
            return self.task.result()
        if self.slot is None:
            raise busy(f"The data was not checked within {seconds:.0f} s, because other checks run")
        return None


class Preflight:
    """Runs checks, each of them once and a bounded number at the same time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._checker = Checker(settings)
        self._queue = FairQueue(
            settings.preflight_at_once, "checks", wait_seconds=None, waiting=MAX_WAITING
        )
        # A check that is too slow for a request frees its slot, so that others need not wait.
        self._background = FairQueue(settings.preflight_at_once, "checks", wait_seconds=None)
        self._running: dict[str, RunningCheck] = {}
        # Also those that nobody waits for any more, until their processes have ended.
        self._tasks: set[asyncio.Task[CheckResult]] = set()

    @contextmanager
    def check(self, request: CheckRequest) -> Iterator[RunningCheck]:
        """Join the equal check that runs, or start one; it ends with the last caller."""
        running = self.join(request)
        try:
            yield running
        finally:
            self.leave(request, running)

    def join(self, request: CheckRequest) -> RunningCheck:
        """Return the equal check that runs, or start one, and become one of its callers."""
        running = self._running.get(request.key)
        if running is None or running.task.done():
            running = self._running[request.key] = RunningCheck()
            running.task = asyncio.create_task(self._run(request, running))
            self._tasks.add(running.task)
            running.task.add_done_callback(self._tasks.discard)
        running.callers += 1
        return running

    def leave(self, request: CheckRequest, running: RunningCheck) -> None:
        """Stop being a caller of a check; without callers it ends."""
        running.callers -= 1
        if not running.callers:
            running.task.cancel()
            if self._running.get(request.key) is running:
                del self._running[request.key]

    def move_to_background(self, request: CheckRequest, running: RunningCheck) -> None:
        """Free the slot of a check that takes long, unless too many such checks run already."""
        if running.slot is None or running.in_background:
            return
        if (slot := self._background.try_acquire(request.org_id)) is not None:
            running.slot.release()
            running.slot, running.in_background = slot, True

    def warm_up(self) -> None:
        """Start the process for the first check before it is needed."""
        self._checker.warm_up()

    async def close(self) -> None:
        """End all checks and their processes."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._checker.close()

    async def _run(self, request: CheckRequest, running: RunningCheck) -> CheckResult:
        running.slot = await self._queue.acquire(request.org_id)
        try:
            result = await self._checker.run(request)
        finally:
            running.slot.release()
        try:
            await check_results.store(self._database, request, result)
        except SQLAlchemyError:
            # The next equal check runs again; this one is not lost.
            log.exception("the result of a check cannot be stored")
        return result
