"""Runs sandboxes as Ray Jobs: the same supervisor and process, on a machine of a Ray cluster.

The submission id is `JOB-ATTEMPT`, and Ray accepts each id once, so an attempt starts at most once
even when a response is lost. The cluster keeps the state of every sandbox, so any dispatcher that
reaches the cluster can manage any job.
"""

import asyncio
import contextlib
import functools
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread

from dreadnode_api.sandbox import exit_codes, ray_entry
from dreadnode_api.sandbox.runner import Exited, Lost, RunnerUnavailable, Running, Sandbox, State
from dreadnode_api.settings import Settings, SettingsError

log = logging.getLogger(__name__)

CALL_SECONDS = 30.0
START_SECONDS = 60.0
SENT = (
    "ray_entry.py", "supervisor.py", "exit_codes.py", "limits.py", "output.py", "process_tree.py",
    "signals.py",
)  # fmt: skip
# Ray counts from its own signal; the supervisor must kill the sandbox before Ray does.
MARGIN_SECONDS = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RayRunner:
    """Submits a Ray Job for each sandbox.

    Args:
        connect: returns Ray's `JobSubmissionClient`; it is called again after every failure.
        folder: where the output of ended sandboxes is kept, `ID/ATTEMPT/output.log`.
        python: the interpreter on the cluster that has the runtime installed.
        cpus: how many processors Ray reserves for a sandbox.
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
        """Submit `sandbox`, unless it was submitted before.

        Raises:
            RunnerUnavailable: the cluster does not answer; the call may be repeated.
        """
        submission = _name(sandbox.job_id, sandbox.attempt)
        if await self._info(submission) is not None:
            return
        try:
            await self._call(
                lambda client: _submit(client, submission, sandbox, self._python, self._cpus),
                START_SECONDS,
            )
        except RunnerUnavailable:
            # The response is lost, or the id exists; only the cluster knows which.
            if await self._info(submission) is None:
                raise

    async def state(self, job_id: str, attempt: int) -> State:
        """Return the state of a sandbox that any dispatcher submitted.

        Raises:
            RunnerUnavailable: the cluster does not answer, so the state is unknown.
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
            # Stopped, or never started because the cluster had no free machine.
            return Exited(-15, "stopped")
        if info.driver_exit_code is None:
            return Lost()
        return Exited(*exit_codes.decode(info.driver_exit_code))

    async def heartbeat(self, job_id: str, attempt: int) -> None:
        """Do nothing: a sandbox on the cluster does not depend on this machine."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""
        submission = _name(job_id, attempt)
        if await self._info(submission) is not None:
            await self._call(lambda client: client.stop_job(submission))

    async def kill(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to stop; Ray kills it after the grace period."""
        await self.stop(job_id, attempt)

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that an ended sandbox printed, or else Ray's own message."""
        submission = _name(job_id, attempt)
        info = await self._info(submission)
        if info is None:
            return []
        text = (await self._logs(submission)).partition(ray_entry.USAGE_MARK)[0]
        if info.driver_exit_code is None and info.message:
            text += f"\n{info.message}"
        return text.replace("\0", "").splitlines()[-lines:]

    async def usage(self, job_id: str, attempt: int) -> object:
        """Return the token counts that an ended sandbox left, None if it left none."""
        submission = _name(job_id, attempt)
        if await self._info(submission) is None:
            return None
        text = (await self._logs(submission)).rpartition(ray_entry.USAGE_MARK)[2]
        found: object = None
        with contextlib.suppress(ValueError):
            found = json.loads(text)
        return found

    async def clean(self, job_id: str, attempt: int) -> None:
        """Keep the output of an ended sandbox, and delete the job and its tokens from Ray."""
        submission = _name(job_id, attempt)
        if await self._info(submission) is None:
            return
        folder = self._folder / job_id / str(attempt)
        text = await self._logs(submission)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "output.log").write_text(text, errors="replace")
        await self._call(lambda client: client.delete_job(submission))

    async def _logs(self, submission: str) -> str:
        try:
            return str(await self._call(lambda client: client.get_job_logs(submission)))
        except RunnerUnavailable as error:
            # The machine that holds the log may have left the cluster.
            log.warning("the output of %s cannot be read: %s", submission, error)
            return ""

    async def _info(self, submission: str) -> Any:
        """Return what the cluster knows about a job, or None if it does not know the job."""
        try:
            return await self._call(lambda client: client.get_job_info(submission))
        except _Refused as error:
            if "status code 404" in str(error):
                return None
            raise

    async def _call(self, function: Callable[[Any], Any], seconds: float = CALL_SECONDS) -> Any:
        """Call the cluster with a timeout; Ray's client blocks and has no timeout."""
        try:
            async with asyncio.timeout(seconds):
                return await to_thread.run_sync(
                    self._call_blocking, function, abandon_on_cancel=True
                )
        except RuntimeError as error:
            raise _Refused(f"the Ray cluster refuses: {str(error)[:300]}") from error
        except Exception as error:
            self._client = None
            why = str(error)[:300] or type(error).__name__
            raise RunnerUnavailable(f"the Ray cluster does not answer: {why}") from error

    def _call_blocking(self, function: Callable[[Any], Any]) -> Any:
        if self._client is None:
            self._client = self._connect()
        return function(self._client)


class _Refused(RunnerUnavailable):
    """The cluster responds with an error."""


def _name(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}"


def _submit(client: Any, submission: str, sandbox: Sandbox, python: str, cpus: float) -> None:
    command = list(sandbox.command)
    if command[0] == sys.executable:
        # This machine's interpreter; the cluster uses its own.
        command[0] = ""
    launch_spec = {
        "command": command,
        "environment": dict(sandbox.environment),
        "limits": dict(sandbox.limits),
        "stop_grace": sandbox.stop_grace,
        # It gets no heartbeat there: it ends by itself when it cannot reach the API.
        "orphan_seconds": sandbox.limits["wall_seconds"] + sandbox.stop_grace,
    }
    with tempfile.TemporaryDirectory(prefix="ray-job-") as name:
        _pack(Path(name))
        client.submit_job(
            # `exec`, because a shell in between would get the signal that the supervisor needs.
            entrypoint=f"exec {python} -m dreadnode_api.sandbox.ray_entry",
            submission_id=submission,
            entrypoint_num_cpus=cpus,
            runtime_env={
                "working_dir": name,
                "env_vars": {
                    ray_entry.LAUNCH_SPEC: json.dumps(launch_spec),
                    "RAY_JOB_STOP_WAIT_TIME_S": str(int(sandbox.stop_grace) + MARGIN_SECONDS),
                },
            },
            metadata={"job": sandbox.job_id, "attempt": str(sandbox.attempt)},
        )


def _pack(folder: Path) -> None:
    """Write the package that is sent to the cluster: the entry point and the supervisor."""
    package = folder / "dreadnode_api" / "sandbox"
    package.mkdir(parents=True)
    for file in (folder / "dreadnode_api" / "__init__.py", package / "__init__.py"):
        file.touch()
    for name in SENT:
        shutil.copyfile(Path(ray_entry.__file__).with_name(name), package / name)


def create(settings: Settings) -> RayRunner:
    """Return the runner for the cluster that the settings name.

    Raises:
        SettingsError: no cluster is set, Ray's client is not installed, or the machines of the
            cluster cannot reach this server.
    """
    address = urlsplit(settings.ray_address)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SettingsError(
            "`DREADNODE_RAY_ADDRESS` must be the address of the cluster's dashboard, such as "
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
