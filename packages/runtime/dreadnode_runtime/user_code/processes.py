"""A person's own Python code, run in confined processes of its own: see `confined` for the limits.

It runs only where an admin allows it, in an environment of its own that holds no key. Calls go
over pipes, one JSON object a line, and each has a time limit.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreadnode_runtime.errors import plain

ALLOWED = "DREADNODE_ALLOW_CUSTOM_CODE"
"""Variable that an admin sets where a person's own code may run."""
START_SECONDS = 60.0
LONGEST_ANSWER = 1 << 20
_PR_SET_DUMPABLE = 4


def must_be_allowed() -> None:
    """Return if this server runs custom code.

    Raises:
        ValueError: It does not.
    """
    if os.environ.get(ALLOWED, "").lower() not in ("1", "true", "yes"):
        raise ValueError(
            "this server runs no custom code; use the built-in recipes, or ask its admin to set "
            f"`{ALLOWED}=1`"
        )


class CodeFailed(Exception):
    """A person's code did not do what was asked; the text is one sentence part that says how."""


class Worker:
    """One confined process with a person's source in it; calls go through it one by one."""

    def __init__(self, source: str, functions: Sequence[str], memory_mb: int) -> None:
        self._setup = {"source": source, "functions": list(functions), "memory_mb": memory_mb}
        self._process: asyncio.subprocess.Process | None = None
        self._folder: str | None = None
        self.confined: list[str] = []

    async def start(self) -> None:
        """Start the process and load the source, unless that is done.

        Raises:
            CodeFailed: The source cannot be loaded.
        """
        if self._process is not None:
            return
        _hide_own_memory()
        self._folder = tempfile.mkdtemp(prefix="reward-")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(Path(__file__).with_name("confined.py")),
            cwd=self._folder,
            # Nothing of the sandbox's environment: no key, no token, no address.
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_ANSWER,
            start_new_session=True,
        )
        setup = {**self._setup, "output": str(Path(self._folder) / "output")}
        try:
            started = await self._exchange(setup, START_SECONDS)
        except CodeFailed:
            await self.end()
            raise
        self.confined = started["confined"]

    async def call(
        self, function: str, arguments: Sequence[Any], *, number: bool, seconds: float
    ) -> Any:
        """Return what FUNCTION returns for ARGUMENTS; with NUMBER, it must be a finite one.

        Raises:
            CodeFailed: It failed, in one of the ways that this module's table lists.
        """
        await self.start()
        asked = {"function": function, "arguments": arguments, "number": number}
        return (await self._exchange(asked, seconds))["value"]

    async def end(self) -> None:
        """End the process and everything that it started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                answer = await self._answer(request)
        except TimeoutError:
            await self.end()
            raise CodeFailed(f"it took longer than {seconds:g} s") from None
        except (OSError, ValueError) as error:
            await self.end()
            raise CodeFailed(f"its process answered what cannot be read: {plain(error)}") from error
        except asyncio.CancelledError:
            await self.end()
            raise
        if "error" in answer:
            raise CodeFailed(str(answer["error"]))
        return answer

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker is not running")
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            await self.end()
            raise CodeFailed("it ended its process")
        answer = json.loads(line)
        if not isinstance(answer, dict) or not {"error", "value", "confined"} & answer.keys():
            raise ValueError("not an answer")
        return answer


class Pool:
    """Some workers with the same source; each is started when it is first needed.

    Args:
        source: Of a Python module.
        functions: What it must define.
        processes: How many calls run at the same time.
        memory_mb: Of each process.
        seconds: How long a call may take.
    """

    def __init__(
        self,
        source: str,
        functions: Sequence[str],
        *,
        processes: int,
        memory_mb: int,
        seconds: float,
    ) -> None:
        self._seconds = seconds
        self._workers = [Worker(source, functions, memory_mb) for _ in range(processes)]
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def call(self, function: str, *arguments: Any, number: bool = True) -> Any:
        """Return what FUNCTION returns; with NUMBER, it must be a finite one.

        Raises:
            CodeFailed: It failed.
        """
        worker = await self._idle.get()
        try:
            return await worker.call(function, arguments, number=number, seconds=self._seconds)
        finally:
            self._idle.put_nowait(worker)

    async def confined(self) -> list[str]:
        """Load the source, and say under which limits it runs.

        Raises:
            CodeFailed: It cannot be loaded.
        """
        worker = self._workers[0]
        await worker.start()
        return worker.confined

    async def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            await worker.end()


def _hide_own_memory() -> None:
    """Let no other process of this user read this one's memory and environment, keys included."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
