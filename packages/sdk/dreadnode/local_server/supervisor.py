"""Keeps the processes of a server running, and leaves none behind.

It starts programs in stages: each stage when the programs of the previous one are ready. It stops
them one by one in the reverse order. A program that exits after it was ready is started again after
a delay, which doubles each time; one that exits earlier ends the start.

The stdin of each program is a pipe that only this process holds: if this process is killed, the
programs reach the end of their input and stop. Their output goes directly to files, which are
complete even then. Each has its own session, so Ctrl-C reaches only this process, which then stops
them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode.errors import ServeError

_POLL_SECONDS = 0.05
_LOG_LIMIT = 32 << 20
_ROTATE_SECONDS = 60.0
_SHOWN_LINES = 12


@dataclass(frozen=True)
class Program:
    """One process of the server.

    Attributes:
        name: Its name in messages and of its log.
        command: The program and its arguments.
        environment: Its complete environment.
        folder: The folder it runs in.
        ready: The text in its output when it is ready; None if it is ready immediately.
        start_within: Seconds until it must be ready.
        stop_within: Seconds until it must have stopped; then it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    ready: str | None = None
    start_within: float = 600.0
    stop_within: float = 15.0


@dataclass(frozen=True)
class Backoff:
    """The delays before a program is started again.

    Attributes:
        first: Seconds before the first restart; each delay is twice the previous one.
        longest: The longest delay in seconds.
        healthy: Seconds of running after which the delays start from the first again.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy: float = 60.0

    def delays(self) -> Iterator[float]:
        """Yield the delays in order."""
        delay = self.first
        while True:
            yield delay
            delay = min(delay * 2, self.longest)


class Supervisor:
    """Runs programs until it is stopped.

    Args:
        stages: The programs, in the order of their start.
        logs: The folder of their logs.
        say: Prints a message.
        backoff: The delays before restarts.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Program]],
        logs: Path,
        *,
        say: Callable[[str], None],
        backoff: Backoff = Backoff(),
    ) -> None:
        self._stages = stages
        self._logs = logs
        self._say = say
        self._backoff = backoff
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._kill_now = asyncio.Event()

    def stop(self) -> None:
        """Stop everything in order; called a second time, kill it."""
        if self._stopping.is_set():
            self._kill_now.set()
        self._stopping.set()

    async def run(self, *, when_ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, keep it running until `stop`, then stop it.

        Args:
            when_ready: Called when everything is ready.

        Raises:
            ServeError: A program exited before it was ready, or was not ready in time.
        """
        keepers: list[tuple[Program, asyncio.Task[None]]] = []
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            for stage in self._stages:
                ready = [asyncio.Event() for _ in stage]
                for program, is_ready in zip(stage, ready, strict=True):
                    keeper = asyncio.create_task(self._keep_running(program, is_ready))
                    keepers.append((program, keeper))
                all_ready = asyncio.create_task(_all(ready))
                await _first(all_ready, stopping, *(keeper for _, keeper in keepers))
                all_ready.cancel()
                if stopping.done():
                    return
            when_ready()
            await _first(stopping, *(keeper for _, keeper in keepers))
        finally:
            stopping.cancel()
            for program, keeper in reversed(keepers):
                await self._stop_program(program, keeper)

    async def _keep_running(self, program: Program, is_ready: asyncio.Event) -> None:
        """Run PROGRAM again and again; raise if it exits before it was ready."""
        log = self._logs / f"{program.name}.log"
        delays = self._backoff.delays()
        while True:
            started, offset = time.monotonic(), _rotate(log)
            process = await self._start(program, log)
            if not is_ready.is_set() and await _is_ready(process, program, log, offset):
                is_ready.set()
            code = await _exit_code(process, log)
            if not is_ready.is_set():
                raise ServeError(_start_error(program, code, log, offset))
            if time.monotonic() - started >= self._backoff.healthy:
                delays = self._backoff.delays()
            delay = next(delays)
            self._say(
                f"the {program.name} stopped ({_cause(code)}) and is started again; its log is "
                f"{log}"
            )
            await asyncio.sleep(delay)

    async def _start(self, program: Program, log: Path) -> asyncio.subprocess.Process:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(program.environment),
                cwd=program.folder,
                start_new_session=True,
            )
        self._running[program.name] = process
        return process

    async def _stop_program(self, program: Program, keeper: asyncio.Task[None]) -> None:
        """Stop PROGRAM: terminate it, wait, and kill it if it still runs."""
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServeError):
            await keeper
        process = self._running.get(program.name)
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.create_task(process.wait())
        kill_now = asyncio.create_task(self._kill_now.wait())
        await asyncio.wait(
            (ended, kill_now), timeout=program.stop_within, return_when=asyncio.FIRST_COMPLETED
        )
        kill_now.cancel()
        if not ended.done():
            self._say(f"the {program.name} did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended


async def _all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


async def _first(*waiting: asyncio.Task[Any]) -> None:
    """Wait for the first of WAITING, and raise its error if it has one."""
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        each.result()


async def _is_ready(
    process: asyncio.subprocess.Process, program: Program, log: Path, offset: int
) -> bool:
    """Wait until the log of PROGRAM says that it is ready; return False if it exits earlier."""
    deadline = time.monotonic() + program.start_within
    while process.returncode is None:
        if program.ready is None or program.ready.encode() in _since(log, offset):
            return True
        if time.monotonic() > deadline:
            raise ServeError(
                f"the {program.name} was not ready within {program.start_within:g} s; its log is "
                f"{log}"
            )
        await asyncio.sleep(_POLL_SECONDS)
    return False


async def _exit_code(process: asyncio.subprocess.Process, log: Path) -> int:
    """Wait until PROCESS exits, and keep its log below the limit meanwhile."""
    ended = asyncio.create_task(process.wait())
    try:
        while not (await asyncio.wait({ended}, timeout=_ROTATE_SECONDS))[0]:
            # The process continues on a full disk.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_move_content, log)
        return await ended
    finally:
        ended.cancel()


def _move_content(log: Path) -> None:
    """Move the content of a log above the limit to a second file, while a process writes to it.

    The process appends, so it continues at the start of the emptied file. What it writes between
    the copy and the truncation is lost.
    """
    if log.stat().st_size < _LOG_LIMIT:
        return
    with log.open("rb") as source, log.with_suffix(".log.1").open("wb") as copy:
        shutil.copyfileobj(source, copy)
        os.truncate(log, 0)


def _rotate(log: Path) -> int:
    """Rename a log above the limit, and return the offset of the next start's output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    size = log.stat().st_size if log.exists() else 0
    if size < _LOG_LIMIT:
        return size
    shutil.move(log, log.with_suffix(".log.1"))
    return 0


def _since(log: Path, offset: int) -> bytes:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()


def _start_error(program: Program, code: int, log: Path, offset: int) -> str:
    lines = _since(log, offset).decode(errors="replace").rstrip().splitlines()[-_SHOWN_LINES:]
    message = f"the {program.name} did not start ({_cause(code)}); its log is {log}"
    return "\n".join([f"{message} and ends with:", *(f"  {line}" for line in lines)])


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
