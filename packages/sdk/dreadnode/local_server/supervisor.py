"""Keeps the processes of a server running, and leaves none behind.

Programs are started in stages, each when those of the stage before answer, and stopped in the
reverse order, one after the other. One that dies after it has answered is started again, after a
pause that doubles; one that dies before that ends the whole.

Each program's stdin is a pipe that only this process holds: should it be killed, they read the end
of their input and stop by themselves. Their output goes straight to files, so that their last words
are kept even then. Each has a session of its own, so that Ctrl-C reaches this process alone, which
then stops them in order.
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

_LOOK_EVERY = 0.05
_LOG_LIMIT = 32 << 20
_SHORTEN_EVERY = 60.0
_LAST_WORDS = 12


@dataclass(frozen=True)
class Program:
    """One process of the server.

    Attributes:
        name: What people call it; also the name of its log.
        command: The program and its arguments.
        environment: Its whole environment.
        ready: What its output holds once it answers; None if it counts as soon as it runs.
        start_within: Seconds that it may take to answer.
        stop_within: Seconds that it may take to stop before it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: str | None = None
    start_within: float = 600.0
    stop_within: float = 15.0


@dataclass(frozen=True)
class Backoff:
    """The pauses before a program is started again.

    Attributes:
        first: Seconds before the first restart; each pause is twice the one before.
        longest: The longest pause in seconds.
        healthy: After so many seconds of running, the pauses begin anew.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy: float = 60.0

    def pauses(self) -> Iterator[float]:
        """Yield one pause after the other."""
        pause = self.first
        while True:
            yield pause
            pause = min(pause * 2, self.longest)


class Supervisor:
    """Runs programs until it is told to stop.

    Args:
        stages: The programs, in the order in which they are started.
        logs: The folder that keeps their output.
        say: Tells a person what happens.
        backoff: The pauses before restarts.
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
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Stop everything in order; asked a second time, kill it."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self, *, when_ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, keep it running until `stop`, then stop it.

        Args:
            when_ready: Called when everything answers.

        Raises:
            ServeError: A program died, or did not answer, before it ever had; all are stopped.
        """
        keepers: list[tuple[Program, asyncio.Task[None]]] = []
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            for stage in self._stages:
                answers = [asyncio.Event() for _ in stage]
                for program, answered in zip(stage, answers, strict=True):
                    keeper = asyncio.create_task(self._keep(program, answered))
                    keepers.append((program, keeper))
                all_answer = asyncio.create_task(_all(answers))
                await _first(all_answer, stopping, *(keeper for _, keeper in keepers))
                all_answer.cancel()
                if stopping.done():
                    return
            when_ready()
            await _first(stopping, *(keeper for _, keeper in keepers))
        finally:
            stopping.cancel()
            for program, keeper in reversed(keepers):
                await self._end(program, keeper)

    async def _keep(self, program: Program, answered: asyncio.Event) -> None:
        """Run PROGRAM again and again; end with an error if it dies before it has answered."""
        log = self._logs / f"{program.name}.log"
        pauses = self._backoff.pauses()
        while True:
            started, offset = time.monotonic(), _rotate(log)
            process = await self._start(program, log)
            if not answered.is_set() and await _answers(process, program, log, offset):
                answered.set()
            code = await _ended(process, log)
            if not answered.is_set():
                raise ServeError(_did_not_start(program, code, log, offset))
            if time.monotonic() - started >= self._backoff.healthy:
                pauses = self._backoff.pauses()
            pause = next(pauses)
            self._say(f"the {program.name} stopped ({_ending(code)}); starting it again: see {log}")
            await asyncio.sleep(pause)

    async def _start(self, program: Program, log: Path) -> asyncio.subprocess.Process:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(program.environment),
                start_new_session=True,
            )
        self._running[program.name] = process
        return process

    async def _end(self, program: Program, keeper: asyncio.Task[None]) -> None:
        """Stop PROGRAM: ask, wait, kill."""
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServeError):
            await keeper
        process = self._running.get(program.name)
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.create_task(process.wait())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait(
            (ended, hurry), timeout=program.stop_within, return_when=asyncio.FIRST_COMPLETED
        )
        hurry.cancel()
        if not ended.done():
            self._say(f"the {program.name} did not stop when asked, and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended


async def _all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


async def _first(*waiting: asyncio.Task[Any]) -> None:
    """Wait for the first of WAITING, and let its error through if it has one."""
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        each.result()


async def _answers(
    process: asyncio.subprocess.Process, program: Program, log: Path, offset: int
) -> bool:
    """Wait until PROGRAM says in its log that it answers; False if it dies before."""
    deadline = time.monotonic() + program.start_within
    while process.returncode is None:
        if program.ready is None or program.ready.encode() in _since(log, offset):
            return True
        if time.monotonic() > deadline:
            raise ServeError(
                f"the {program.name} did not answer within {program.start_within:g} s: see {log}"
            )
        await asyncio.sleep(_LOOK_EVERY)
    return False


async def _ended(process: asyncio.subprocess.Process, log: Path) -> int:
    """Wait for the end of PROCESS, for months if need be, while its log keeps to its bound."""
    ended = asyncio.create_task(process.wait())
    try:
        while not (await asyncio.wait({ended}, timeout=_SHORTEN_EVERY))[0]:
            # A full disk is no reason to give the process up.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_shorten, log)
        return await ended
    finally:
        ended.cancel()


def _shorten(log: Path) -> None:
    """Put the content of a log that has grown too long aside, under the process that writes it.

    It appends, so it goes on at the beginning of the emptied file; what it writes in the moment
    between the end of the copy and the emptying is lost.
    """
    if log.stat().st_size < _LOG_LIMIT:
        return
    with log.open("rb") as whole, log.with_suffix(".log.1").open("wb") as aside:
        shutil.copyfileobj(whole, aside)
        os.truncate(log, 0)


def _rotate(log: Path) -> int:
    """Put a log that has grown too long aside, and return where the next start's output begins."""
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


def _did_not_start(program: Program, code: int, log: Path, offset: int) -> str:
    words = _since(log, offset).decode(errors="replace").rstrip().splitlines()[-_LAST_WORDS:]
    sentence = f"the {program.name} did not start ({_ending(code)}); its log is {log}"
    return "\n".join([f"{sentence} and ends with:", *(f"  {line}" for line in words)])


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
