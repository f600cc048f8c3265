"""A short-lived process that keeps to limits, answers once, and is gone with whoever asked."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreadnode_api.sandbox import supervisor as warden

MAX_ANSWER_BYTES = 1024 * 1024
END_SECONDS = 5.0
"""How long a killed process may hold its pipes, should a child of its have escaped."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a process ended: its exit code, negative for a signal, and what it printed."""

    code: int
    output: bytes
    complaint: bytes


async def ask(
    command: Sequence[str],
    question: bytes,
    *,
    folder: Path,
    environment: Mapping[str, str],
    limits: Mapping[str, int],
    seconds: float,
) -> Said:
    """Run COMMAND in FOLDER with QUESTION on its stdin, and return what it answered.

    Args:
        command: The program and its arguments.
        question: What it reads.
        folder: Its working directory.
        environment: All of its environment.
        limits: `memory_bytes`, `cpu_seconds`, `open_files` and `disk_bytes` of one file.
        seconds: How long it may take.

    Raises:
        TimeoutError: It took longer.
    """
    launcher = [sys.executable, "-I", "-S", warden.__file__, "--confine"]
    process = await asyncio.create_subprocess_exec(
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
    )
    try:
        async with asyncio.timeout(seconds):
            output, complaint = await _exchange(process, question)
    finally:
        await _end(process)
    return Said(process.returncode or 0, output, complaint)


async def _exchange(process: asyncio.subprocess.Process, question: bytes) -> tuple[bytes, bytes]:
    """Ask, and return the answer and the complaints, of both no more than a bound."""
    asking, answer, complaint = process.stdin, process.stdout, process.stderr
    if asking is None or answer is None or complaint is None:
        raise RuntimeError("the process has no pipes")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        asking.write(question)
        await asking.drain()
    asking.close()
    taken = await asyncio.gather(_taken(answer), _taken(complaint), process.wait())
    return taken[0], taken[1]


async def _taken(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: max(0, MAX_ANSWER_BYTES - len(kept))]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing of the process behind, whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # `wait` returns when the pipes are at their end, and a full one gets there by being read.
    left = [_taken(stream) for stream in (process.stdout, process.stderr) if stream is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*left, process.wait())
