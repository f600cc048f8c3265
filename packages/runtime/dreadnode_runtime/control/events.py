"""Progress events: delivered in order, each once, without delaying the training."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from dreadnode_runtime.control.api import JobApi, redacted
from dreadnode_runtime.errors import RuntimeFault

Event = dict[str, Any]
MAX_NUMBER = 2**53
"""Counts from here on are reported as strings."""


class Stop:
    """Whether the loop must end after its current step, and why.

    Attributes:
        cancelled: The user cancelled the job: it ends for good.
        terminated: The process must exit: the next attempt resumes the job.
        training: Whether the loop has started, so that there is something to save.
        delivery_error: Why events can no longer be delivered.
        is_budget_exhausted: Returns whether the job's cost has reached its limit.
        over_budget: Whether that ended the loop.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self.terminated = False
        self.training = False
        self.delivery_error: RuntimeFault | None = None
        self.is_budget_exhausted: Callable[[], bool] = lambda: False
        self.over_budget = False

    @property
    def requested(self) -> bool:
        """Whether the loop must end."""
        ended = self.cancelled or self.terminated or self.over_budget
        return ended or self.delivery_error is not None

    def before_step(self) -> bool:
        """Return whether the loop must end before its next step; only here the budget ends it.

        The steps that were submitted are counted by now, so a job exceeds its budget by at most
        one step.
        """
        self.over_budget = self.over_budget or self.is_budget_exhausted()
        return self.requested

    @property
    def leave_to_next_attempt(self) -> bool:
        """Whether another attempt resumes the job; a cancelled job is never resumed."""
        return self.terminated and not self.cancelled


class Reporter:
    """Numbers events and sends them one after the other, in a task of its own.

    The loop does not wait for delivery: events queue up here while the API is unreachable. The
    response to each event is the job, which says whether the user cancelled it.

    Attributes:
        listeners: Called immediately with each event.
        usage: Returns the token counts of this attempt, which every event carries.
        on_record: Called with the job's record in each response.
    """

    def __init__(self, api: JobApi, attempt: int, stop: Stop) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self.usage: Callable[[], Mapping[Any, int]] | None = None
        self.on_record: Callable[[dict[str, Any]], None] | None = None
        self._api = api
        self._attempt = attempt
        self._stop = stop
        self._seq = 0
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Reporter":
        self._task = asyncio.create_task(self._deliver_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def report(
        self,
        event_type: str,
        *,
        message: str | None = None,
        level: str = "info",
        metrics: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        artifacts: dict[str, Any] | None = None,
        rollouts: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Queue an event for delivery."""
        self._seq += 1
        event: Event = {
            "event_type": event_type,
            "attempt": self._attempt,
            "seq": self._seq,
            "level": level,
            "metrics": metrics or {},
            "data": data or {},
        }
        if message is not None:
            event["message"] = redacted(message)
        if artifacts is not None:
            event["artifacts"] = artifacts
        if rollouts is not None:
            event["rollouts"] = rollouts
        if error is not None:
            event["error"] = redacted(error)
        if self.usage is not None:
            # The API refuses larger numbers in JSON, which many readers would round.
            event["usage"] = {
                kind: count if count < MAX_NUMBER else str(count)
                for kind, count in self.usage().items()
            }
        self._queue.put_nowait(event)
        for listener in self.listeners:
            listener(event)

    def phase(self, phase: str, reason: str | None = None) -> None:
        """Report what the job is doing now."""
        data = {"phase": phase} | ({} if reason is None else {"reason": reason})
        self.report("phase", data=data)

    def log(self, message: str, *, level: str = "info", **data: Any) -> None:
        """Add a line to the job's log."""
        self.report("log", message=message, level=level, data=data)

    async def flush(self) -> None:
        """Wait until all events are delivered.

        Raises:
            TryAgain: The API was unreachable for too long, or rejects this attempt.
        """
        if self._task is None:
            raise RuntimeError("the reporter is not running")
        delivered = asyncio.create_task(self._queue.join())
        await asyncio.wait({delivered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not delivered.done():
            delivered.cancel()
        if self._stop.delivery_error is not None:
            raise self._stop.delivery_error

    async def _deliver_all(self) -> None:
        while True:
            event = await self._queue.get()
            try:
                job = await self._api.progress(event)
            except RuntimeFault as fault:
                self._stop.delivery_error = fault
                return
            if job.get("cancel_requested_at"):
                self._stop.cancelled = True
            if self.on_record is not None:
                self.on_record(job)
            self._queue.task_done()
