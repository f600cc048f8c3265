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
from dreadnode_api.fair_queue import FairQueue, busy
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
        started: set when it has a slot.
        callers: how many wait for it.
    """

    task: asyncio.Task[CheckResult]
    started: asyncio.Event
    callers: int = field(default=0)

    async def result(self, seconds: float | None = None) -> CheckResult | None:
        """Return the result, or None if the check runs and is not done after SECONDS.

        Raises:
            TooManyRequests: the check has not even started after SECONDS.
            CheckFailed: the check failed without a reason of its own.
        """
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        if done:
            return self.task.result()
        if not self.started.is_set():
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
            started = asyncio.Event()
            task = asyncio.create_task(self._run(request, started))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            running = self._running[request.key] = RunningCheck(task, started)
        running.callers += 1
        return running

    def leave(self, request: CheckRequest, running: RunningCheck) -> None:
        """Stop being a caller of a check; without callers it ends."""
        running.callers -= 1
        if not running.callers:
            running.task.cancel()
            if self._running.get(request.key) is running:
                del self._running[request.key]

    async def warm_up(self) -> None:
        """Start the process for the first check before it is needed."""
        await self._checker.warm_up()

    async def close(self) -> None:
        """End all checks and their processes."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._checker.close()

    async def _run(self, request: CheckRequest, started: asyncio.Event) -> CheckResult:
        async with self._queue.slot(request.org_id):
            started.set()
            result = await self._checker.run(request)
        try:
            await check_results.store(self._database, request, result)
        except SQLAlchemyError:
            # The next equal check runs again; this one is not lost.
            log.exception("the result of a check cannot be stored")
        return result
