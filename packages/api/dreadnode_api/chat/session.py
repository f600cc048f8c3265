"""A chat session: a process of the runtime that samples from one checkpoint.

It reads requests and writes responses as JSON lines, keeps to a job's limits, and gets a key for
the runs of its job and nothing else.
"""

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode_api.runtime_processes.child import Child
from dreadnode_api.runtime_processes.environment import (
    RUN_KEY_SECONDS,
    child_limits,
    engine_environment,
)
from dreadnode_api.settings import Settings


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """The weights that a chat session samples from.

    Attributes:
        org_id: the organization of their job.
        checkpoint: their path.
        lineage: the subject of the engine's key that opens them.
        opening: the first line that the process reads.
    """

    org_id: str
    checkpoint: str
    lineage: str
    opening: Mapping[str, Any]


class ChatSession:
    """A process that answers one request after the other, started by the first one.

    Attributes:
        is_dead: whether it can take no more requests.
        used_at: when it answered last (`time.monotonic()`).
    """

    def __init__(self, settings: Settings, target: ChatTarget) -> None:
        self.is_dead = False
        self.used_at = self._created_at = time.monotonic()
        self._settings = settings
        self._target = target
        self._child: Child | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="chat-", ignore_cleanup_errors=True)

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and its key outlasts one more answer."""
        return not self.is_dead and time.monotonic() - self._created_at < RUN_KEY_SECONDS / 2

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the runtime's response; the first one includes the start of the process.

        A session that fails, or whose caller is cancelled while it works, ends.

        Raises:
            ChildFailed: there is no response.
        """
        try:
            if self._child is None:
                self._child = await self._start()
                opened = await self._child.request(self._target.opening)
                if not opened["ok"]:
                    self.is_dead = True
                    return opened
            return await self._child.request(request)
        except BaseException:
            self.is_dead = True
            if self._child is not None:
                await asyncio.shield(self._child.kill())
            raise
        finally:
            self.used_at = time.monotonic()

    async def close(self) -> None:
        """End the process, which may first release the engine's memory."""
        self.is_dead = True
        if self._child is not None:
            await self._child.close()
        await asyncio.to_thread(self._folder.cleanup)

    async def _start(self) -> Child:
        settings, home = self._settings, Path(self._folder.name)
        return await Child.start(
            [*settings.runtime_command, "chat"],
            folder=home,
            environment=engine_environment(settings, self._target.lineage, home),
            limits=child_limits(settings),
        )
