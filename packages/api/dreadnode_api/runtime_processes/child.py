"""A child process under its own supervisor: bounded as a whole tree, and gone with its owner.

`run` starts a process for one input and returns its output. `Child` is a process that reads
requests and writes responses, one JSON object per line, for as long as somebody needs it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dreadnode_api.sandbox import child_supervisor, process_tree
from dreadnode_api.sandbox.exit_codes import decode

MAX_OUTPUT_BYTES = 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
KEPT_STDERR_BYTES = 16 * 1024
READ_BYTES = 65536
CLOSE_SECONDS = 5.0
"""How long a process may take to end after its stdin was closed."""
KILL_SECONDS = process_tree.KILL_SECONDS + 5.0


class ChildFailed(Exception):
    """The process ended, or wrote something that is not a JSON object.

    Attributes:
        reason: why its supervisor ended it, such as `memory`; None if it did not.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a process ended and what it printed.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        reason: why its supervisor ended it, such as `memory`; None if it did not.
    """

    code: int
    reason: str | None
    stdout: bytes
    stderr: bytes


async def run(
    command: Sequence[str],
    stdin: bytes,
    *,
    folder: Path,
    environment: Mapping[str, str],
    limits: Mapping[str, int],
    seconds: float,
) -> ChildResult:
    """Run COMMAND in FOLDER with STDIN as its input, and return its result.

    Args:
        command: the program and its arguments.
        stdin: its input.
        folder: its working directory.
        environment: its complete environment.
        limits: `memory_bytes` and `processes` of the whole tree; `cpu_seconds`, `open_files` and
            `disk_bytes` of each process; `niceness`, 0 by default.
        seconds: the longest time that it may take.

    Raises:
        TimeoutError: it took longer.
    """
    process = await _start(command, folder, environment, limits)
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await _communicate(process, stdin)
    finally:
        await _kill(process)
    return ChildResult(*decode(process.returncode or 0), stdout, stderr)


class Child:
    """A process that answers one request after the other, one JSON object per line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stderr = bytearray()
        self._reading_stderr = asyncio.create_task(self._keep_stderr())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        limits: Mapping[str, int],
    ) -> Self:
        """Start COMMAND; the arguments are those of `run`."""
        return cls(await _start(command, folder, environment, limits))

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def request(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Send VALUE and return the response.

        A caller that is cancelled leaves a response that nobody reads, and must kill the process.

        Raises:
            ChildFailed: there is no response.
        """
        await self.send(value)
        response = await self.receive()
        if not isinstance(response.get("ok"), bool):
            raise await self._failed("the response is not an object with `ok`")
        return response

    async def send(self, value: Mapping[str, Any]) -> None:
        """Write VALUE as one line.

        Raises:
            ChildFailed: the process has ended.
        """
        try:
            if self._process.stdin is None:
                raise BrokenPipeError("the process has no pipes")
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            await self._process.stdin.drain()
        except OSError as error:
            raise await self._failed(str(error)) from error

    async def receive(self) -> dict[str, Any]:
        """Return the next line.

        Raises:
            ChildFailed: the process has ended, or the line is not a JSON object.
        """
        try:
            if self._process.stdout is None:
                raise BrokenPipeError("the process has no pipes")
            line = json.loads(await self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise await self._failed(str(error)) from error
        if not isinstance(line, dict):
            raise await self._failed("the response is not an object")
        return line

    async def close(self) -> None:
        """End the process: close its stdin, and kill it if that does not help."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(_discard(self._process.stdout), self._process.wait())
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and everything it started."""
        await _kill(self._process)
        self._reading_stderr.cancel()
        await asyncio.gather(self._reading_stderr, return_exceptions=True)

    async def _failed(self, message: str) -> ChildFailed:
        """Return the error for a missing response, once the process has ended."""
        await self.kill()
        code, reason = decode(self._process.returncode or 0)
        stderr = bytes(self._stderr)[-2000:]
        return ChildFailed(f"the process ended with {code}: {message}: {stderr!r}", reason)

    async def _keep_stderr(self) -> None:
        """Keep the end of what the process prints to stderr, so that the pipe never fills."""
        stream = self._process.stderr
        while stream is not None and (chunk := await stream.read(READ_BYTES)):
            self._stderr = (self._stderr + chunk)[-KEPT_STDERR_BYTES:]


async def _start(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limits: Mapping[str, int],
) -> asyncio.subprocess.Process:
    launcher = [sys.executable, "-I", "-S", child_supervisor.__file__]
    return await asyncio.create_subprocess_exec(
        *launcher,
        json.dumps(dict(limits)),
        str(os.getpid()),
        *command,
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=MAX_LINE_BYTES,
    )


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes) -> tuple[bytes, bytes]:
    """Write the input, and return a bounded part of stdout and of stderr."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise RuntimeError("the process has no pipes")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()
    stdout, stderr, _ = await asyncio.gather(
        _read(process.stdout), _read(process.stderr), process.wait()
    )
    return stdout, stderr


async def _read(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(READ_BYTES):
        kept += chunk[: max(0, MAX_OUTPUT_BYTES - len(kept))]
    return bytes(kept)


async def _discard(stream: asyncio.StreamReader | None) -> None:
    while stream is not None and await stream.read(READ_BYTES):
        pass


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the process and everything it started; its supervisor does that on SIGTERM."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    # `wait` returns only when the pipes have ended, and a full pipe ends only when it is read.
    # A request that is being cancelled may still read from it; then that one reads to the end.
    ending = asyncio.gather(_discard(process.stdout), process.wait(), return_exceptions=True)
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await ending
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
