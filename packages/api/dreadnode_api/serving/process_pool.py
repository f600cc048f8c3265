"""Serving processes that stay warm: a bounded number, each for a bounded time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from weakref import WeakValueDictionary

from dreadnode_api.checkpoints.targets import Target
from dreadnode_api.errors import ApiError, GatewayTimeout
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.runtime_processes.child import ChildFailed
from dreadnode_api.runtime_processes.environment import refusal
from dreadnode_api.serving.model_process import Line, ModelProcess
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

WAIT_SECONDS = 30.0
REQUESTS_PER_PROCESS = 64
"""Requests under way, for each process that may run; the engine computes them together."""

Key = tuple[str, str]


class ProcessPool:
    """One process for each model in use, which ends when it is idle for long enough.

    A process that works holds a slot of its organization, and so does each request.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        most = settings.chats_at_once
        self._working = FairQueue(most, "models", wait_seconds=WAIT_SECONDS)
        self._requests = FairQueue(
            most * REQUESTS_PER_PROCESS, "requests", wait_seconds=WAIT_SECONDS
        )
        self._processes: dict[Key, ModelProcess] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Only one request at a time takes the slot of its process.
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def result(self, target: Target, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of REQUEST to TARGET.

        Raises:
            TooManyRequests: no slot became free in time.
            GatewayTimeout: the process took longer than `chat_timeout`.
            ApiError: the request, the engine or the process is at fault.
        """
        async with aclosing(self.lines(target, request)) as lines:
            async for line in lines:
                if "result" in line:
                    found: dict[str, Any] = line["result"]
                    return found
        raise AssertionError("the last line is a result")

    async def lines(self, target: Target, request: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
        """Yield the parts of REQUEST to TARGET, and its result; errors are those of `result`.

        `chat_timeout` bounds the time from one line to the next.
        """
        seconds = self._settings.chat_timeout
        try:
            async with self._requests.slot(target.org_id):
                async with asyncio.timeout(seconds):
                    process = await self._take(target)
                try:
                    async with aclosing(process.lines(request)) as lines:
                        while True:
                            async with asyncio.timeout(seconds):
                                line = await anext(lines, None)
                            if line is None:
                                return
                            if "error" in line:
                                raise refusal(line)
                            yield line
                except TimeoutError:
                    # A process that hangs holds up its other requests too.
                    process.is_dead = True
                    raise
                finally:
                    self._give_back(target.key, process)
        except ChildFailed as failure:
            log.warning("the process that serves %s failed: %s", target.key[1], failure)
            what = "ran out of memory" if failure.reason == "memory" else "ended"
            raise ApiError(
                f"The process that serves this model {what}; try again, and see the server's log"
            ) from failure
        except TimeoutError:
            raise GatewayTimeout(
                f"The model did not respond within {seconds:.0f} s; request fewer tokens, or try "
                "again when the engine is less busy"
            ) from None

    async def close(self) -> None:
        """End all processes."""
        for key, process in list(self._processes.items()):
            self._end(key)
            if process.active:
                self._close(process)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _take(self, target: Target) -> ModelProcess:
        """Return the process of TARGET, which counts as working until it is given back."""
        key = target.key
        async with self._locks.setdefault(key, asyncio.Lock()):
            process = self._processes.get(key)
            if process is None or not process.active or not process.is_usable:
                slot = await self._working.acquire(target.org_id)
                process = self._ready(target)
                process.slot = slot
            process.active += 1
            return process

    def _ready(self, target: Target) -> ModelProcess:
        """Return the process of TARGET; if there is none, start one and end another if need be."""
        key = target.key
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        process = self._processes.get(key)
        if process is not None and not process.is_usable:
            self._end(key)
            process = None
        if process is None:
            if len(self._processes) >= self._settings.chats_at_once:
                # The queue has a slot for every process that works, so at least one is idle.
                self._end(min(self._timers, key=lambda each: self._processes[each].used_at))
            process = self._processes[key] = ModelProcess(self._settings, target)
        return process

    def _give_back(self, key: Key, process: ModelProcess) -> None:
        """Release the slot of a process that works no more; keep it warm unless it is dead."""
        process.active -= 1
        if process.active:
            return
        if process.slot is not None:
            process.slot.release()
        if self._processes.get(key) is not process:
            self._close(process)
        elif process.is_dead:
            self._end(key)
        else:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(self._settings.chat_idle_seconds, self._end, key)

    def _end(self, key: Key) -> None:
        """Take the process out of the pool; it is closed once its last request has ended."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        process = self._processes.pop(key)
        if not process.active:
            self._close(process)

    def _close(self, process: ModelProcess) -> None:
        closing = asyncio.create_task(process.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
