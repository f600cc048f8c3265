"""Runs checks of data in warm processes of the runtime, never in the API's own process.

Starting such a process takes seconds, so it stays for the next check, and a check never waits for
one to start when another one becomes free earlier. The process runs each check in a fork. Its
folder is emptied between them, and it is ended after a user's own code has run, after a failure,
after `MAX_CHECKS` checks, and when it is idle.
"""

import asyncio
import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dreadnode_api.errors import ApiError, Invalid
from dreadnode_api.runtime_processes.child import Child, ChildFailed
from dreadnode_api.runtime_processes.environment import clean_environment, job_limits
from dreadnode_api.runtime_processes.folder import ProcessFolder
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest

log = logging.getLogger(__name__)

MAX_CHECKS = 200
IDLE_SECONDS = 900.0
START_SECONDS = 120.0
PING = {"ping": True}
"""A request that is answered as soon as the process is ready."""
EXCEEDED = {
    "memory": "needs more than the {bytes:,} bytes of memory that a job may use",
    "processes": "starts more processes than a job may have",
    "cpu_time": "takes too much CPU time",
}


class Report(BaseModel):
    """What the data contains."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rows: int
    usable: int
    dropped: dict[str, int] = {}
    tokens: int
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check: a report on the data, or one sentence that says what is wrong.

    Attributes:
        report: what the data contains; None if it cannot be trained on.
        error: why it cannot be trained on, if it cannot.
        loc: the field of the request that the error is about.
        is_stable: whether the same check always has this result.
    """

    report: dict[str, Any] | None
    error: str | None = None
    loc: Sequence[str] = ("config",)
    is_stable: bool = True

    def refusal(self) -> ApiError | None:
        """Return the error as a response, if there is one."""
        return None if self.error is None else Invalid(self.error, *self.loc)


class CheckFailed(Exception):
    """A check that failed without a reason of its own, which is a bug and a 500."""


@dataclass(slots=True)
class _Process:
    """A warm process.

    Attributes:
        checks: how many checks it has run.
        timer: ends it when it is idle.
    """

    folder: ProcessFolder
    child: Child
    checks: int = 0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class Checker:
    """Runs checks; the caller bounds how many run at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[_Process] = []
        self._waiting: deque[asyncio.Future[_Process]] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def warm_up(self) -> None:
        """Start a process for the first check, unless there is one."""
        if not self._idle and not self._starting:
            self._start_another()

    async def run(self, request: CheckRequest) -> CheckResult:
        """Return the result of a check; a check that is cancelled ends immediately.

        Raises:
            CheckFailed: the process failed.
        """
        seconds = self._settings.preflight_timeout
        process = await self._take()
        keep = False
        try:
            await asyncio.to_thread(_empty, process.folder.path)
            async with asyncio.timeout(seconds):
                response = await process.child.request(request.payload)
            result = _result(response)
            keep = not request.runs_custom_code and process.checks + 1 < MAX_CHECKS
        except TimeoutError:
            error = (
                f"Checking the data took longer than {seconds:.0f} seconds; train on a smaller "
                "dataset, or raise `DREADNODE_PREFLIGHT_TIMEOUT` on the server"
            )
            return CheckResult(None, error, _data_loc(request), is_stable=False)
        except ChildFailed as failure:
            return self._explain(request, failure)
        finally:
            process.checks += 1
            if keep:
                self._offer(process)
            else:
                self._end(process)
        return result

    async def close(self) -> None:
        """End all processes."""
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        while self._idle:
            self._end(self._idle.pop())
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _take(self) -> _Process:
        """Return a process: an idle one, or the first that becomes free or has started.

        Raises:
            CheckFailed: it cannot be started.
        """
        while self._idle:
            process = self._idle.pop()
            if process.timer is not None:
                process.timer.cancel()
            if process.child.is_alive:
                return process
            self._end(process)
        free: asyncio.Future[_Process] = asyncio.get_running_loop().create_future()
        self._waiting.append(free)
        if len(self._starting) < len(self._waiting):
            self._start_another()
        try:
            return await free
        except asyncio.CancelledError:
            if free in self._waiting:
                self._waiting.remove(free)
            elif free.done() and not free.cancelled() and free.exception() is None:
                self._offer(free.result())
            raise

    def _offer(self, process: _Process) -> None:
        """Hand a free process to the first check that waits, or keep it for a while."""
        while self._waiting:
            free = self._waiting.popleft()
            if not free.done():
                free.set_result(process)
                return
        loop = asyncio.get_running_loop()
        process.timer = loop.call_later(IDLE_SECONDS, self._end_idle, process)
        self._idle.append(process)

    def _start_another(self) -> None:
        task = asyncio.create_task(self._start_and_offer())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_and_offer(self) -> None:
        try:
            process = await self._start()
        except Exception as error:
            # One check gets the error, as it would have got the process.
            log.exception("a process for checks cannot be started")
            while self._waiting:
                free = self._waiting.popleft()
                if not free.done():
                    free.set_exception(CheckFailed(f"a check cannot be started: {error}"))
                    return
        else:
            self._offer(process)

    async def _start(self) -> _Process:
        """Start a process, and return it when it has loaded everything."""
        settings = self._settings
        folder = ProcessFolder(settings.data_dir, "check-")
        cpu_seconds = math.ceil(settings.preflight_timeout) * (os.cpu_count() or 1)
        try:
            child = await Child.start(
                [*settings.runtime_command, "check"],
                folder=folder.path,
                environment=clean_environment(settings, folder.path),
                limits=job_limits(settings) | {"cpu_seconds": cpu_seconds},
            )
        except BaseException:
            folder.delete()
            raise
        process = _Process(folder, child)
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.request(PING)
        except BaseException:
            self._end(process)
            raise
        return process

    def _end_idle(self, process: _Process) -> None:
        self._idle.remove(process)
        self._end(process)

    def _end(self, process: _Process) -> None:
        if process.timer is not None:
            process.timer.cancel()
        ending = asyncio.create_task(_end(process))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _explain(self, request: CheckRequest, failure: ChildFailed) -> CheckResult:
        """Return why a process ended: a limit, or a user's own code.

        Raises:
            CheckFailed: neither of them.
        """
        if failure.reason in EXCEEDED:
            limit = EXCEEDED[failure.reason].format(bytes=self._settings.job_memory_bytes)
            error = f"Checking the data {limit}; train on a smaller dataset"
            return CheckResult(None, error, _data_loc(request), is_stable=False)
        if request.runs_custom_code:
            error = (
                "The check ended before it had a result, because the custom code of the reward or "
                "the environment ended it or wrote to its output; remove that from the code"
            )
            return CheckResult(None, error, ("config", "reward_recipe"), is_stable=False)
        raise CheckFailed(str(failure)) from failure


def _result(response: Mapping[str, Any]) -> CheckResult:
    try:
        if response["ok"] is False:
            return CheckResult(None, str(response["error"]), response.get("loc") or ("config",))
        return CheckResult(Report.model_validate(response).model_dump(exclude={"ok"}))
    except (KeyError, TypeError, ValidationError) as error:
        raise ChildFailed(f"the response is not a report: {str(response)[:2000]}") from error


def _data_loc(request: CheckRequest) -> tuple[str, str]:
    is_rl = request.payload["trainer_type"] == "rl"
    return "config", "prompt_dataset_ref" if is_rl else "dataset_ref"


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


async def _end(process: _Process) -> None:
    await process.child.kill()
    await asyncio.to_thread(process.folder.delete)
