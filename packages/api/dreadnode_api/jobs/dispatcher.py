"""The dispatcher: claims queued jobs, starts their sandboxes, and watches each until it ends.

Any number of dispatchers may share a database; the leases of `queue.py` keep them apart. The state
of a dispatcher is in the database or in the sandbox's folder, so it may be killed at any time. When
its leases expire, the next one adopts the sandboxes that still run and queues the other jobs again.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dreadnode_api import logs
from dreadnode_api.auth.service import new_token
from dreadnode_api.auth.tokens import run_key
from dreadnode_api.db import Database
from dreadnode_api.jobs import queue
from dreadnode_api.jobs.exit_outcomes import apply_exit_outcome
from dreadnode_api.jobs.queue import Lease, LeaseLost, LeaseStatus
from dreadnode_api.jobs.records import set_phase
from dreadnode_api.models.auth import Organization, Workspace
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import ENDED, Job, Status
from dreadnode_api.pricing.ledger import read_usage, record_usage
from dreadnode_api.runtime_processes.environment import engine_environment, job_limits
from dreadnode_api.sandbox import trackers
from dreadnode_api.sandbox.runner import Exited, Lost, Runner, RunnerUnavailable, Running, Sandbox
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

OUTPUT_LINES = 20


@dataclass(slots=True)
class Watched:
    """A job that this dispatcher watches until it ends.

    Attributes:
        status: the result of the last renewal of the lease, None before the first one.
        is_lost: whether another dispatcher has the lease now.
        stop_requested: whether this dispatcher asked the sandbox to stop.
        overdue_since: since when (`time.monotonic()`) the sandbox should be ending.
        runner_unavailable: whether the runner did not answer the last call about it.
    """

    lease: Lease
    status: LeaseStatus | None = None
    is_lost: bool = False
    stop_requested: bool = False
    overdue_since: float | None = None
    runner_unavailable: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Dispatcher:
    """Runs the jobs of the queue until it is asked to stop."""

    def __init__(self, settings: Settings, database: Database, runner: Runner, host: str) -> None:
        self._settings = settings
        self._database = database
        self._runner = runner
        self._host = host
        self._watched: dict[str, Watched] = {}
        # The ends of others' leases, and since when (`time.monotonic()`) they are unchanged.
        self._foreign: dict[str, tuple[datetime, float]] = {}

    async def run(self, stop: asyncio.Event, abandon: asyncio.Event) -> None:
        """Claim and watch jobs until `stop` or `abandon` is set.

        Args:
            stop: end the sandboxes and queue their jobs again (or, with `on_stop=leave`, leave
                them running for the next dispatcher).
            abandon: end immediately and leave the sandboxes running for the next dispatcher.
        """
        renewed_at = 0.0
        while not stop.is_set() and not abandon.is_set():
            try:
                if time.monotonic() - renewed_at > self._settings.lease_seconds / 3:
                    await self._renew()
                    renewed_at = time.monotonic()
                await self._adopt()
                await self._claim()
            except Exception:
                # The database may be unavailable for a while; the sandboxes keep running.
                log.exception("the queue cannot be processed right now")
                await asyncio.sleep(self._settings.poll_seconds)
            await _wait_for_any(stop, abandon, seconds=self._settings.poll_seconds)
        await self._shut_down(abandon)

    async def _renew(self) -> None:
        watched = list(self._watched.values())
        if not watched:
            return
        async with self._database.writing() as session:
            statuses = await queue.renew(
                session, [each.lease for each in watched], self._settings.lease_seconds
            )
        for each in watched:
            each.status = statuses.get(each.lease.token)
            each.is_lost = each.status is None
        # Last, so that a folder that cannot be written costs no lease.
        for each in watched:
            if not each.is_lost:
                await self._runner.heartbeat(each.lease.job_id, each.lease.attempt)

    async def _adopt(self) -> None:
        """Take over jobs whose leases have expired; without any, the database is only read."""
        async with self._database.reading() as session:
            leases = await queue.foreign_leases(session, list(self._watched))
        unrenewed = self._unrenewed(leases)
        while leases:
            async with self._database.writing() as session:
                job = await queue.adopt(
                    session,
                    self._host,
                    self._settings.lease_seconds,
                    list(self._watched),
                    unrenewed,
                )
            if job is None:
                return
            log.info(
                "taking over job %s, attempt %d", job.id, job.attempt, extra={"job_id": job.id}
            )
            self._watch(job, None)

    def _unrenewed(self, leases: dict[str, datetime]) -> dict[str, datetime]:
        """Return the leases that were not renewed for a whole lease, measured by this process."""
        at = time.monotonic()
        self._foreign = {
            token: seen if (seen := self._foreign.get(token)) and seen[0] == until else (until, at)
            for token, until in leases.items()
        }
        deadline = at - self._settings.lease_seconds
        return {token: until for token, (until, since) in self._foreign.items() if since < deadline}

    async def _claim(self) -> None:
        while len(self._watched) < self._settings.jobs_at_once:
            async with self._database.writing() as session:
                job = await queue.claim(
                    session,
                    self._host,
                    self._settings.lease_seconds,
                    self._settings.jobs_at_once_per_workspace,
                    self._settings.jobs_at_once_in_all,
                )
                if job is None:
                    return
                organization = await session.get_one(Organization, job.org_id)
                workspace = await session.get_one(Workspace, job.workspace_id)
                key, token = new_token(
                    job.org_id, f"job {job.id}", job_id=job.id, attempt=job.attempt
                )
                session.add(token)
            log.info("starting job %s, attempt %d", job.id, job.attempt, extra={"job_id": job.id})
            sandbox = describe_sandbox(self._settings, job, organization.slug, workspace.slug, key)
            self._watch(job, sandbox)

    def _watch(self, job: Job, sandbox: Sandbox | None) -> None:
        watched = Watched(Lease(job.id, job.attempt, job.lease or ""))
        self._watched[watched.lease.token] = watched
        watched.task = asyncio.create_task(self._run_job(watched, sandbox))

    async def _run_job(self, watched: Watched, sandbox: Sandbox | None) -> None:
        """Start the sandbox of one job, wait for its end, and record the outcome."""
        lease = watched.lease
        logs.JOB.set(lease.job_id)  # Only in this task.
        try:
            if sandbox is not None:
                await self._start(watched, sandbox)
                if watched.stop_requested:
                    # A request during the start did not reach the sandbox.
                    with contextlib.suppress(RunnerUnavailable):
                        await self._runner.stop(lease.job_id, lease.attempt)
            await self._wait_for_end(watched)
        except LeaseLost:
            log.warning("another dispatcher has taken over job %s", lease.job_id)
            await self._kill_superseded(lease)
        except Exception:
            log.exception(
                "job %s is not watched any more; it is adopted when its lease expires", lease.job_id
            )
        finally:
            del self._watched[lease.token]

    async def _kill_superseded(self, lease: Lease) -> None:
        """Kill the sandbox of an attempt that is over, so that no two attempts run at once.

        The other dispatcher may have adopted this very sandbox; then it keeps running.
        """
        try:
            async with self._database.reading() as session:
                job = await session.get_one(Job, lease.job_id)
            if job.attempt > lease.attempt or job.status == Status.QUEUED:
                await self._runner.kill(lease.job_id, lease.attempt)
        except Exception:
            # Its token is revoked, so it ends by itself at its next event.
            log.exception("the old sandbox of job %s cannot be killed", lease.job_id)

    async def _start(self, watched: Watched, sandbox: Sandbox) -> None:
        """Start a sandbox, and repeat the call while the runner is unavailable."""
        while not watched.is_lost and not watched.stop_requested:
            try:
                await self._runner.start(sandbox)
            except RunnerUnavailable as error:
                await self._report_runner(watched, str(error))
                await asyncio.sleep(self._settings.poll_seconds)
            else:
                return

    async def _wait_for_end(self, watched: Watched) -> None:
        lease = watched.lease
        while True:
            try:
                state = await self._runner.state(lease.job_id, lease.attempt)
                if not isinstance(state, Running):
                    output = await self._runner.output(lease.job_id, lease.attempt, OUTPUT_LINES)
                    usage = await self._runner.usage(lease.job_id, lease.attempt)
                    break
                await self._report_runner(watched, None)
                await self._stop_overdue(watched)
            except RunnerUnavailable as error:
                # The sandbox may still run.
                await self._report_runner(watched, str(error))
            if watched.is_lost:
                raise LeaseLost(lease.job_id)
            await asyncio.sleep(self._settings.poll_seconds)
        # Before the lease is released, because nobody cleans up afterwards.
        with contextlib.suppress(RunnerUnavailable):
            await self._runner.clean(lease.job_id, lease.attempt)
        await self._record_outcome(watched, state, output, read_usage(usage))

    async def _report_runner(self, watched: Watched, trouble: str | None) -> None:
        """Show on the job that its runner does not answer, and later that it answers again."""
        if watched.runner_unavailable == (trouble is not None):
            return
        async with self._database.writing() as session:
            job = await queue.lock_leased(session, watched.lease)
            if job.status not in ENDED:
                set_phase(session, job, job.phase or "starting", trouble)
        watched.runner_unavailable = trouble is not None
        log.info("job %s: %s", watched.lease.job_id, trouble or "the runner answers again")

    async def _record_outcome(
        self,
        watched: Watched,
        outcome: Exited | Lost,
        output: list[str],
        usage: dict[str, int] | None,
    ) -> None:
        async with self._database.writing() as session:
            job = await queue.lock_leased(session, watched.lease)
            if usage is not None:
                record_usage(job, watched.lease.attempt, usage)
            await apply_exit_outcome(
                session,
                job,
                outcome,
                settings=self._settings,
                stop_requested=watched.stop_requested,
                output=output,
            )
        log.info("job %s, attempt %d: %s", job.id, job.attempt, job.status)

    async def _stop_overdue(self, watched: Watched) -> None:
        """Stop a sandbox that should end by itself and does not."""
        status, lease = watched.status, watched.lease
        if status is None or watched.stop_requested:
            return
        if not (status.has_ended or status.cancel_requested):
            return
        if watched.overdue_since is None:
            watched.overdue_since = time.monotonic()
        if time.monotonic() - watched.overdue_since > self._settings.cancel_grace_seconds:
            await self._runner.stop(lease.job_id, lease.attempt)
            watched.stop_requested = True

    async def _shut_down(self, abandon: asyncio.Event) -> None:
        watched = list(self._watched.values())
        if self._settings.on_stop == "leave" or abandon.is_set():
            await self._hand_over(watched)
            return
        for each in watched:
            each.stop_requested = True
            with contextlib.suppress(RunnerUnavailable):
                await self._runner.stop(each.lease.job_id, each.lease.attempt)
        # After twice the grace period only an unavailable runner can be the reason to wait.
        until = time.monotonic() + 2 * self._settings.stop_grace_seconds + 1
        while self._watched and not abandon.is_set() and time.monotonic() < until:
            with contextlib.suppress(Exception):
                await self._renew()
            await _wait_for_any(abandon, seconds=self._settings.poll_seconds)
        if self._watched:
            await self._hand_over(list(self._watched.values()))

    async def _hand_over(self, watched: list[Watched]) -> None:
        """Stop watching, so that the next dispatcher can take over immediately."""
        for each in watched:
            if each.task is not None:
                each.task.cancel()
        for each in watched:
            with contextlib.suppress(LeaseLost):
                async with self._database.writing() as session:
                    await queue.expire(session, each.lease)


def describe_sandbox(settings: Settings, job: Job, org: str, workspace: str, key: str) -> Sandbox:
    """Return the sandbox of a claimed job.

    Its environment holds the token of this job and the engine's key for this run, and no other
    secret of the server.
    """
    key_seconds = settings.job_wall_seconds + 3600
    environment = {
        **engine_environment(settings, job.lineage, Path("/"), key_seconds),
        **trackers.environment(job.config, settings),
        "DREADNODE_SERVER": settings.public_url,
        "DREADNODE_API_KEY": key,
        "DREADNODE_ORGANIZATION": org,
        "DREADNODE_WORKSPACE": workspace,
        "DREADNODE_JOB_ATTEMPT": str(job.attempt),
    }
    if settings.engine_key:
        # An evaluation reads the weights of several jobs, each with a key of its own.
        readable = [*(job.artifacts.get("models") or ())]
        # Another job starts from the weights of one.
        readable += [start] if (start := job.artifacts.get("from_adapter")) else []
        for number, model in enumerate(readable):
            key_of_model = run_key(settings.engine_key, model["lineage"], key_seconds)
            environment[f"TINKER_API_KEY_{number}"] = key_of_model
    return Sandbox(
        job_id=job.id,
        attempt=job.attempt,
        command=(*settings.runtime_command, "--job-id", job.id),
        environment=environment,
        limits=job_limits(settings),
        stop_grace=settings.stop_grace_seconds,
        orphan_seconds=settings.job_orphan_seconds,
    )


def host_id(data_dir: Path) -> str:
    """Return the id of the machine whose sandboxes have their folders under `data_dir`."""
    path = data_dir / "host.id"
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(new_id())
    return path.read_text().strip()


async def _wait_for_any(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of `events` is set, or for `seconds`."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
