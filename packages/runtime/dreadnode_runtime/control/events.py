"""What a job tells while it runs: in order, each event once, and without holding up training."""

import asyncio
from collections.abc import Callable
from typing import Any

from dreadnode_runtime.control.api import Service, redacted
from dreadnode_runtime.errors import RuntimeFault

Event = dict[str, Any]


class Stop:
    """Whether the loop is to end after its step, and why.

    Attributes:
        cancelled: Somebody cancelled the job: it ends for good.
        terminated: The process is to go: the job is left for the next attempt.
        training: Whether the loop has begun, so that there is something to save.
        broken: Why nothing can be told any more.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self.terminated = False
        self.training = False
        self.broken: RuntimeFault | None = None

    @property
    def requested(self) -> bool:
        """Whether to end."""
        return self.cancelled or self.terminated or self.broken is not None

    @property
    def left_to_another(self) -> bool:
        """Whether another attempt is to go on; one who cancels and then hurries wants none."""
        return self.terminated and not self.cancelled


class Reporter:
    """Numbers events and sends them one after the other, from a task of its own.

    A loop says what happened and goes on; while the API is away, events wait here. The answer to
    each event is the job, from which the reporter learns that somebody cancelled it.

    Attributes:
        listeners: What else hears each event, at once.
    """

    def __init__(self, service: Service, attempt: int, stop: Stop) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self._service = service
        self._attempt = attempt
        self._stop = stop
        self._seq = 0
        self._waiting: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Reporter":
        self._task = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def tell(
        self,
        event_type: str,
        *,
        message: str | None = None,
        level: str = "info",
        metrics: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        artifacts: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Queue an event; it is sent as soon as those before it are."""
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
        if error is not None:
            event["error"] = redacted(error)
        self._waiting.put_nowait(event)
        for listener in self.listeners:
            listener(event)

    def phase(self, phase: str, reason: str | None = None) -> None:
        """Say what the job is doing now."""
        data = {"phase": phase} | ({} if reason is None else {"reason": reason})
        self.tell("phase", data=data)

    def log(self, message: str, *, level: str = "info", **data: Any) -> None:
        """Add a line to the job's log."""
        self.tell("log", message=message, level=level, data=data)

    async def flush(self) -> None:
        """Wait until everything told so far has arrived.

        Raises:
            TryAgain: It cannot: the API was away for too long, or takes no more.
        """
        if self._task is None:
            raise RuntimeError("the reporter is not running")
        arrived = asyncio.create_task(self._waiting.join())
        await asyncio.wait({arrived, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done():
            arrived.cancel()
        if self._stop.broken is not None:
            raise self._stop.broken

    async def _send_all(self) -> None:
        while True:
            event = await self._waiting.get()
            try:
                job = await self._service.progress(event)
            except RuntimeFault as fault:
                self._stop.broken = fault
                return
            if job.get("cancel_requested_at"):
                self._stop.cancelled = True
            self._waiting.task_done()
