"""A serving process: it samples from one model and answers many requests at once.

It reads requests and writes parts and results as JSON lines, keeps to a job's limits, and gets a
key for the runs of its job and nothing else.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from dreadnode_api.checkpoints.targets import Target
from dreadnode_api.fair_queue import Slot
from dreadnode_api.runtime_processes.child import Child, ChildFailed
from dreadnode_api.runtime_processes.environment import (
    RUN_KEY_SECONDS,
    engine_environment,
    job_limits,
)
from dreadnode_api.runtime_processes.folder import ProcessFolder
from dreadnode_api.settings import Settings

Line = dict[str, Any]


class ModelProcess:
    """A process that serves one model, started by the first request.

    Attributes:
        is_dead: whether it can take no more requests.
        used_at: when it ended a request last (`time.monotonic()`).
        active: how many requests are under way.
        slot: what it holds while it works.
    """

    def __init__(self, settings: Settings, target: Target) -> None:
        self.is_dead = False
        self.used_at = self._created_at = time.monotonic()
        self.active = 0
        self.slot: Slot | None = None
        self._settings = settings
        self._target = target
        self._child: Child | None = None
        self._opened: asyncio.Task[Line] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._queues: dict[str, asyncio.Queue[Line | ChildFailed]] = {}
        self._numbers = itertools.count(1)
        self._folder = ProcessFolder(settings.data_dir, "serve-")

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and its key outlasts one more answer."""
        return not self.is_dead and time.monotonic() - self._created_at < RUN_KEY_SECONDS / 2

    async def lines(self, request: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
        """Yield the process's lines for REQUEST: parts, then `result` or `error`.

        The first request includes the start of the process. A caller that stops early cancels the
        request.

        Raises:
            ChildFailed: the process failed.
        """
        if self._opened is None:
            self._opened = asyncio.create_task(self._open())
        # Others wait for the same start: the end of one of them must not cancel it.
        opened = await asyncio.shield(self._opened)
        if not opened["ok"]:
            self.is_dead = True
            yield opened
            return
        if self._child is None:
            raise ChildFailed("the process has ended")
        name = str(next(self._numbers))
        queue = self._queues[name] = asyncio.Queue()
        under_way = True
        try:
            await self._child.send({**request, "id": name})
            while under_way:
                line = await queue.get()
                if isinstance(line, ChildFailed):
                    raise line
                under_way = "part" in line
                yield line
        except (GeneratorExit, asyncio.CancelledError):
            if under_way:
                await self._cancel(name)
            raise
        finally:
            del self._queues[name]
            self.used_at = time.monotonic()

    async def close(self) -> None:
        """End the process, which may first release the engine's memory."""
        self.is_dead = True
        if self._opened is not None:
            self._opened.cancel()
        if self._reading is not None:
            self._reading.cancel()
        await asyncio.gather(
            *(task for task in (self._opened, self._reading) if task is not None),
            return_exceptions=True,
        )
        if self._child is not None:
            await self._child.close()
        await asyncio.to_thread(self._folder.delete)

    async def _open(self) -> Line:
        settings, home = self._settings, self._folder.path
        try:
            self._child = await Child.start(
                [*settings.runtime_command, "serve"],
                folder=home,
                environment=engine_environment(settings, self._target.lineage, home),
                limits=job_limits(settings),
            )
            opened = await self._child.request(self._target.opening)
        except BaseException:
            self.is_dead = True
            raise
        if opened["ok"]:
            self._reading = asyncio.create_task(self._read(self._child))
        return opened

    async def _read(self, child: Child) -> None:
        """Hand each line of the process to the request that it names, until it ends."""
        try:
            while True:
                line = await child.receive()
                if (queue := self._queues.get(str(line.pop("id", "")))) is not None:
                    queue.put_nowait(line)
        except ChildFailed as failure:
            self.is_dead = True
            for queue in self._queues.values():
                queue.put_nowait(failure)

    async def _cancel(self, name: str) -> None:
        if self._child is None or self.is_dead:
            return
        try:
            await asyncio.shield(self._child.send({"cancel": name}))
        except ChildFailed:
            self.is_dead = True
