"""One conversation partner: a process of the runtime that samples from one checkpoint.

It is asked and answers in lines of JSON, keeps to a job's limits, and ends with the service, with
its stdin, or when it is killed. It gets a key for the runs of its job and nothing else.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode_api.runtime_processes.environment import engine_environment, limits
from dreadnode_api.sandbox import supervisor as warden
from dreadnode_api.settings import Settings

LONGEST_LINE = 16 * 1024 * 1024
KEPT_COMPLAINT = 4096
POLITE_SECONDS = 5.0
"""How long a process whose stdin has ended may take to give the engine its memory back."""


class Broken(Exception):
    """The process ended, or answered what cannot be read, which is our bug and a 500."""


class Ended(Exception):
    """The process had ended before it was asked."""


@dataclass(frozen=True, slots=True)
class Partner:
    """Whose weights are talked with.

    Attributes:
        lineage: The subject under which the engine keeps them.
        opening: What the process is told first.
    """

    lineage: str
    opening: Mapping[str, Any]


class Talk:
    """A process that answers one question after the other.

    Attributes:
        users: How many wait for an answer of it.
        dead: Whether it can be asked no more.
    """

    def __init__(self, settings: Settings, partner: Partner) -> None:
        self.users = 0
        self.dead = False
        self._settings = settings
        self._partner = partner
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._complaint = bytearray()
        self._listening: asyncio.Task[None] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="chat-", ignore_cleanup_errors=True)

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the runtime's answer to QUESTION; the first one takes as long as a start.

        Whoever is cut off while the process works leaves an answer that nobody takes, so the
        process ends too.

        Raises:
            Broken: There is no answer.
            Ended: It was not asked.
        """
        async with self._turn:
            if self.dead:
                raise Ended
            try:
                if self._process is None:
                    opened = await self._open()
                    if not opened["ok"]:
                        self.dead = True
                        return opened
                return await self._exchange(self._process, question)
            except BaseException:
                self.kill()
                raise

    async def close(self) -> None:
        """End the process, at first by telling it that nothing more comes."""
        self.dead = True
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLITE_SECONDS):
                    if self._process.stdin is not None:
                        self._process.stdin.close()
                    await self._process.wait()
            self.kill()
            await self._process.wait()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await asyncio.to_thread(self._folder.cleanup)

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        self.dead = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _open(self) -> dict[str, Any]:
        settings, home = self._settings, Path(self._folder.name)
        bounds = json.dumps(limits(settings))
        confine = [sys.executable, "-I", "-S", warden.__file__, "--confine", bounds]
        self._process = process = await asyncio.create_subprocess_exec(
            *confine,
            str(os.getpid()),
            *settings.runtime_command,
            "chat",
            cwd=home,
            env=engine_environment(settings, self._partner.lineage, home),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LONGEST_LINE,
        )
        self._listening = asyncio.create_task(self._listen(process.stderr))
        return await self._exchange(process, self._partner.opening)

    async def _exchange(
        self, process: asyncio.subprocess.Process | None, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        if process is None or process.stdin is None or process.stdout is None:
            raise Broken("it has no pipes")
        try:
            process.stdin.write(json.dumps(said).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
            if not isinstance(answer["ok"], bool):
                raise TypeError("`ok` is neither true nor false")  # noqa: TRY301
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken(f"{error}: {bytes(self._complaint)[-2000:]!r}") from error
        return answer

    async def _listen(self, stream: asyncio.StreamReader | None) -> None:
        """Keep the end of what the process complains of, so that its pipe never fills."""
        while stream is not None and (chunk := await stream.read(65536)):
            self._complaint = (self._complaint + chunk)[-KEPT_COMPLAINT:]
