"""Sandboxes as Ray Jobs: the same warden and the same process, on a machine of a Ray cluster.

The submission id is `JOB-ATTEMPT`, and Ray takes each id once: whatever becomes of an answer, an
attempt starts at most once. All that must be known of a sandbox is known by the cluster, so any
dispatcher that reaches it may see any job to its end.
"""

import asyncio
import functools
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread

from dreadnode_api.sandbox import ray_entry
from dreadnode_api.sandbox.runner import Exited, Lost, RunnerAway, Running, Sandbox, State
from dreadnode_api.settings import Settings, SettingsError

log = logging.getLogger(__name__)

ASK_SECONDS = 30.0
STARTING_SECONDS = 60.0
# Ray counts from its signal to the sandbox; the warden must be the one that kills.
MARGIN_SECONDS = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create(settings: Settings) -> "RayRunner":
    """Return the runner for the cluster that the settings name.

    Raises:
        SettingsError: no cluster is named, its client is not installed, or its machines could
            not reach this server.
    """
    address = urlsplit(settings.ray_address)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SettingsError(
            "`DREADNODE_RAY_ADDRESS` must be the address of the cluster's dashboard, for instance "
            "`http://127.0.0.1:8265`"
        )
    if address.hostname not in LOOPBACK:
        for name, url in (
            ("DREADNODE_PUBLIC_URL", settings.public_url),
            ("TINKER_BASE_URL", settings.engine_url),
        ):
            if urlsplit(url).hostname in LOOPBACK:
                raise SettingsError(
                    f"Sandboxes on the Ray cluster at {address.hostname} cannot reach {url}; set "
                    f"`{name}` to an address that they reach"
                )
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise SettingsError(
            "The runner `ray` needs Ray's client; install `dreadnode-api[ray]`"
        ) from None
    connect = functools.partial(JobSubmissionClient, settings.ray_address)
    return RayRunner(
        connect, settings.data_dir / "jobs", python=settings.ray_python, cpus=settings.ray_cpus
    )


class RayRunner:
    """Submits a Ray Job for each sandbox.

    Args:
        connect: makes Ray's `JobSubmissionClient`; it is called again after every failure.
        folder: where the output of ended sandboxes is kept, `ID/ATTEMPT/output.log`.
        python: the interpreter of the cluster's machines in which the runtime is installed.
        cpus: how many processors Ray sets aside for a sandbox.
    """

    def __init__(
        self, connect: Callable[[], Any], folder: Path, *, python: str, cpus: float
    ) -> None:
        self._connect = connect
        self._folder = folder
        self._python = python
        self._cpus = cpus
        self._client: Any = None

    async def start(self, sandbox: Sandbox) -> None:
        """Submit `sandbox`, unless that was done already.

        Raises:
            RunnerAway: the cluster did not answer; the same call may be made again.
        """
        submission = _name(sandbox.job_id, sandbox.attempt)
        if await self._info(submission) is not None:
            return
        try:
            await self._ask(
                lambda client: _submit(client, submission, sandbox, self._python, self._cpus),
                STARTING_SECONDS,
            )
        except RunnerAway:
            # The answer is lost or says that there is one; the cluster knows which.
            if await self._info(submission) is None:
                raise

    async def state(self, job_id: str, attempt: int) -> State:
        """Look at a sandbox, whoever submitted it.

        Raises:
            RunnerAway: the cluster did not answer, so nothing is known.
        """
        info = await self._info(_name(job_id, attempt))
        if info is None:
            return Lost()
        status = str(info.status.value)
        if status in ("PENDING", "RUNNING"):
            return Running()
        if status == "SUCCEEDED":
            return Exited(0)
        if status == "STOPPED" or str(info.error_type or "").endswith("START_TIMEOUT"):
            # Stopped, or never begun because nothing in the cluster became free.
            return Exited(-15, "stopped")
        if info.driver_exit_code is None:
            return Lost()
        return Exited(*ray_entry.decode(info.driver_exit_code))

    async def attend(self, job_id: str, attempt: int) -> None:
        """Do nothing: a sandbox on the cluster is no orphan without this machine."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""
        submission = _name(job_id, attempt)
        if await self._info(submission) is not None:
            await self._ask(lambda client: client.stop_job(submission))

    async def kill(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to stop; Ray kills what has not ended after the grace period."""
        await self.stop(job_id, attempt)

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that an ended sandbox printed, or what Ray says in their place."""
        submission = _name(job_id, attempt)
        info = await self._info(submission)
        if info is None:
            return []
        text = await self._logs(submission)
        if info.driver_exit_code is None and info.message:
            text += f"\n{info.message}"
        return text.replace("\0", "").splitlines()[-lines:]

    async def clean(self, job_id: str, attempt: int) -> None:
        """Keep the output of an ended sandbox, and have Ray forget the job with its keys."""
        submission = _name(job_id, attempt)
        if await self._info(submission) is None:
            return
        folder = self._folder / job_id / str(attempt)
        text = await self._logs(submission)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "output.log").write_text(text, errors="replace")
        await self._ask(lambda client: client.delete_job(submission))

    async def _logs(self, submission: str) -> str:
        try:
            return str(await self._ask(lambda client: client.get_job_logs(submission)))
        except RunnerAway as error:
            # The machine with the log may be gone from a cluster that still knows the job.
            log.warning("the output of %s cannot be had: %s", submission, error)
            return ""

    async def _info(self, submission: str) -> Any:
        """Return what the cluster knows of a job, or None if it does not know it."""
        try:
            return await self._ask(lambda client: client.get_job_info(submission))
        except _Refused as error:
            if "status code 404" in str(error):
                return None
            raise

    async def _ask(self, question: Callable[[Any], Any], seconds: float = ASK_SECONDS) -> Any:
        """Ask the cluster; its client blocks, and knows no time-out of its own."""
        try:
            async with asyncio.timeout(seconds):
                return await to_thread.run_sync(self._put, question, abandon_on_cancel=True)
        except RuntimeError as error:
            raise _Refused(f"the Ray cluster refuses: {str(error)[:300]}") from error
        except Exception as error:
            self._client = None
            why = str(error)[:300] or type(error).__name__
            raise RunnerAway(f"the Ray cluster does not answer: {why}") from error

    def _put(self, question: Callable[[Any], Any]) -> Any:
        if self._client is None:
            self._client = self._connect()
        return question(self._client)


class _Refused(RunnerAway):
    """The cluster answers, and not with what was asked for."""


def _name(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}"


def _submit(client: Any, submission: str, sandbox: Sandbox, python: str, cpus: float) -> None:
    command = list(sandbox.command)
    if command[0] == sys.executable:
        # The interpreter of this machine; over there it is another.
        command[0] = ""
    order = {
        "command": command,
        "environment": dict(sandbox.environment),
        "limits": asdict(sandbox.limits),
        "stop_grace": sandbox.stop_grace,
        # Nobody attends to it there: it ends by itself when the API stays away.
        "orphan_seconds": sandbox.limits.wall_seconds + sandbox.stop_grace,
    }
    with tempfile.TemporaryDirectory(prefix="ray-job-") as name:
        _pack(Path(name))
        client.submit_job(
            # Without a shell in between, which would die of the signal meant for the warden.
            entrypoint=f"exec {python} -m dreadnode_api.sandbox.ray_entry",
            submission_id=submission,
            entrypoint_num_cpus=cpus,
            runtime_env={
                "working_dir": name,
                "env_vars": {
                    ray_entry.ORDER: json.dumps(order),
                    "RAY_JOB_STOP_WAIT_TIME_S": str(int(sandbox.stop_grace) + MARGIN_SECONDS),
                },
            },
            metadata={"job": sandbox.job_id, "attempt": str(sandbox.attempt)},
        )


def _pack(folder: Path) -> None:
    """Lay out what is sent to the cluster: the entry and the warden, under their own names."""
    package = folder / "dreadnode_api" / "sandbox"
    package.mkdir(parents=True)
    for file in (folder / "dreadnode_api" / "__init__.py", package / "__init__.py"):
        file.touch()
    for name in ("ray_entry.py", "supervisor.py"):
        shutil.copyfile(Path(ray_entry.__file__).with_name(name), package / name)
