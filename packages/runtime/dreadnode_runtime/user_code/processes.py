"""Runs a user's own Python code in confined processes; `confined` lists the limits.

User code runs only if the server's admin allows it, without the sandbox's environment variables.
Calls go over pipes, one JSON object for each line, and each call has a time limit.
"""

import asyncio
import contextlib
import ctypes
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from dreadnode_runtime.errors import plain

ALLOWED = "DREADNODE_ALLOW_CUSTOM_CODE"
"""Variable that an admin sets to allow user code."""
START_SECONDS = 60.0
MAX_RESPONSE_BYTES = 1 << 20
_PR_SET_DUMPABLE = 4

Filename = Annotated[str, Field(min_length=1, max_length=255)]
Source = Annotated[str, Field(min_length=1, max_length=200_000)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Megabytes = Annotated[int, Field(ge=128, le=65_536)]
Processes = Annotated[int, Field(ge=1, le=64)]


def check_allowed() -> None:
    """Check that this server runs custom code.

    Raises:
        ValueError: It does not.
    """
    if os.environ.get(ALLOWED, "").lower() not in ("1", "true", "yes"):
        raise ValueError(
            "this server does not run custom code; use a built-in recipe, or ask its admin to set "
            f"`{ALLOWED}=1`"
        )


class CodeFailed(Exception):
    """User code failed; the text is a sentence part that says how."""


class Worker:
    """One confined process with the user's source; it runs one call at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._requests = 0
        self._process: asyncio.subprocess.Process | None = None
        self._folder: str | None = None
        self.confined: list[str] = []

    async def start(self) -> None:
        """Start the process and load the source, unless it is running.

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
            "-m",
            "dreadnode_runtime.user_code.confined",
            cwd=self._folder,
            # None of the sandbox's variables: they hold tokens and addresses.
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_RESPONSE_BYTES,
            start_new_session=True,
        )
        root = os.path.join(self._folder, "root")  # noqa: PTH118
        os.mkdir(root)  # noqa: PTH102
        setup = {**self._settings, "output": f"{self._folder}/output", "root": root}
        self._requests = 0
        try:
            limits = await self._exchange(setup, START_SECONDS, _limits)
            await self._exchange(None, START_SECONDS, partial(_result, 0))
        except CodeFailed:
            await self.end()
            raise
        self.confined = limits

    async def call(
        self, function: str, arguments: Sequence[Any], *, number: bool, seconds: float
    ) -> Any:
        """Return the result of FUNCTION for ARGUMENTS; with NUMBER, it must be a finite number.

        Raises:
            CodeFailed: It raised, took too long, or its process ended.
        """
        await self.start()
        self._requests += 1
        request = {
            "id": self._requests,
            "function": function,
            "arguments": arguments,
            "number": number,
        }
        value = await self._exchange(request, seconds, partial(_result, self._requests))
        if number and not _is_finite(value):
            await self.end()
            raise CodeFailed("its process sent an invalid response: not a finite number")
        return value

    async def end(self) -> None:
        """Kill the process and everything that it started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _exchange(
        self, request: dict[str, Any] | None, seconds: float, read: Callable[[Any], Any]
    ) -> Any:
        """Send REQUEST, if there is one, and return what READ makes of the next response."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._response(request)
            return read(response)
        except TimeoutError:
            await self.end()
            raise CodeFailed(f"it took longer than {seconds:g} s") from None
        except (OSError, ValueError) as error:
            await self.end()
            raise CodeFailed(f"its process sent an invalid response: {plain(error)}") from error
        except asyncio.CancelledError:
            await self.end()
            raise

    async def _response(self, request: dict[str, Any] | None) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker is not running")
        if request is not None:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            await self.end()
            raise CodeFailed("it ended its process")
        return json.loads(line)


def _limits(response: Any) -> list[str]:
    """Return the limits that a new process reports, before it loads the source."""
    limits = response.get("confined") if isinstance(response, dict) else None
    if not isinstance(limits, list):
        raise ValueError("not a list of limits")  # noqa: TRY004
    return [str(limit) for limit in limits]


def _result(number: int, response: Any) -> Any:
    """Return the value of the response to request NUMBER.

    User code can write to its process's pipe: a response to another request is not one to this.

    Raises:
        ValueError: It is not that response.
        CodeFailed: The code failed.
    """
    if not isinstance(response, dict) or response.get("id") != number:
        raise ValueError("not a response to this request")
    if "error" in response:
        raise CodeFailed(str(response["error"]))
    return response.get("value")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class Pool:
    """Workers with the same source; each is started when it is first needed.

    Args:
        source: Source of a Python module.
        functions: Functions that it must define.
        processes: Maximum number of concurrent calls.
        memory_mb: Memory limit of each process, in MiB.
        seconds: Time limit of each call.
        filename: Name of the source in its error messages.
        namespaces: Whether to use namespaces where the system allows them; tests do without.
    """

    def __init__(
        self,
        source: str,
        functions: Sequence[str],
        *,
        processes: int,
        memory_mb: int,
        seconds: float,
        filename: str = "reward.py",
        namespaces: bool = True,
    ) -> None:
        self._seconds = seconds
        settings = {
            "source": source,
            "functions": list(functions),
            "memory_mb": memory_mb,
            "filename": filename,
            "namespaces": namespaces,
        }
        self._workers = [Worker(settings) for _ in range(processes)]
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def call(self, function: str, *arguments: Any, number: bool = True) -> Any:
        """Return the result of FUNCTION; with NUMBER, it must be a finite number.

        Raises:
            CodeFailed: It failed.
        """
        worker = await self._idle.get()
        try:
            return await worker.call(function, arguments, number=number, seconds=self._seconds)
        finally:
            self._idle.put_nowait(worker)

    async def confined(self) -> list[str]:
        """Load the source, and return the limits that hold for it.

        Raises:
            CodeFailed: It cannot be loaded.
        """
        worker = self._workers[0]
        await worker.start()
        return worker.confined

    async def close(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            await worker.end()


def _hide_own_memory() -> None:
    """Keep other processes of this user from reading this process's memory and environment."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
