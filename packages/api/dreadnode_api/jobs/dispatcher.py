"""The dispatcher: takes queued jobs, starts their sandboxes, and sees each to its end.

Any number of dispatchers may share a database; the leases of `queue.py` keep them apart. What a
dispatcher knows is either in the database or in the sandbox's folder, so it may be killed at any
moment: when its leases run out, the next one adopts what lives and queues again what does not.
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
from dreadnode_api.jobs.exit_outcomes import settle
from dreadnode_api.jobs.queue import Lease, LeaseLost, News
from dreadnode_api.jobs.records import set_phase
from dreadnode_api.models.auth import Organization, Workspace
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import ENDED, Job, Status
from dreadnode_api.runtime_processes.environment import clean_environment
from dreadnode_api.sandbox.runner import Exited, Limits, Lost, Runner, RunnerAway, Running, Sandbox
from dreadnode_api.settings import Settings
from dreadnode_api.training import tracking

log = logging.getLogger(__name__)

OUTPUT_LINES = 20


@dataclass(slots=True)
class Watched:
    """A job that this dispatcher sees to its end.

    Attributes:
        news: what the last renewal of the lease brought, None before the first.
        lost: whether the lease is another's now.
        told_to_stop: whether this dispatcher asked the sandbox to stop.
        overdue_since: since when (`time.monotonic()`) the sandbox should be ending.
        away: whether the runner did not answer when it was last asked about it.
    """

    lease: Lease
    news: News | None = None
    lost: bool = False
    told_to_stop: bool = False
    overdue_since: float | None = None
    away: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Dispatcher:
    """Works the queue off until it is told to stop."""

    def __init__(self, settings: Settings, database: Database, runner: Runner, host: str) -> None:
        self._settings = settings
        self._database = database
        self._runner = runner
        self._host = host
        self._watched: dict[str, Watched] = {}
        # The ends of others' leases, and since when (`time.monotonic()`) they have not moved.
        self._seen: dict[str, tuple[datetime, float]] = {}

    async def run(self, stop: asyncio.Event, abandon: asyncio.Event) -> None:
        """Take and watch jobs until `stop` is set, then let go of them.

        Args:
            stop: end the sandboxes and queue their jobs again (or, with `on_stop=leave`, leave
                them to the next dispatcher).
            abandon: end at once and leave the sandboxes to the next dispatcher.
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
                # The database may be away for a while; sandboxes go on, and so do we.
                log.exception("the queue cannot be worked off right now")
                await asyncio.sleep(self._settings.poll_seconds)
            await _first(stop, abandon, seconds=self._settings.poll_seconds)
        await self._let_go(abandon)

    async def _renew(self) -> None:
        watched = list(self._watched.values())
        if not watched:
            return
        async with self._database.writing() as session:
            news = await queue.renew(
                session, [each.lease for each in watched], self._settings.lease_seconds
            )
        for each in watched:
            each.news = news.get(each.lease.token)
            each.lost = each.news is None
        # After it, so that a folder that cannot be written costs no lease.
        for each in watched:
            if not each.lost:
                await self._runner.attend(each.lease.job_id, each.lease.attempt)

    async def _adopt(self) -> None:
        """Take over what others have let go of; it is only read while there is nothing."""
        async with self._database.reading() as session:
            leases = await queue.others(session, list(self._watched))
        silent = self._silent(leases)
        while leases:
            async with self._database.writing() as session:
                job = await queue.adopt(
                    session,
                    self._host,
                    self._settings.lease_seconds,
                    list(self._watched),
                    silent,
                )
            if job is None:
                return
            log.info(
                "taking over job %s, attempt %d", job.id, job.attempt, extra={"job_id": job.id}
            )
            self._watch(job, None)

    def _silent(self, leases: dict[str, datetime]) -> dict[str, datetime]:
        """Return those that were not renewed for as long as a lease lasts, watched from here."""
        at = time.monotonic()
        self._seen = {
            token: seen if (seen := self._seen.get(token)) and seen[0] == until else (until, at)
            for token, until in leases.items()
        }
        long_since = at - self._settings.lease_seconds
        return {token: until for token, (until, since) in self._seen.items() if since < long_since}

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
            sandbox = sandbox_of(self._settings, job, organization.slug, workspace.slug, key)
            self._watch(job, sandbox)

    def _watch(self, job: Job, sandbox: Sandbox | None) -> None:
        watched = Watched(Lease(job.id, job.attempt, job.lease or ""))
        self._watched[watched.lease.token] = watched
        watched.task = asyncio.create_task(self._see_to_the_end(watched, sandbox))

    async def _see_to_the_end(self, watched: Watched, sandbox: Sandbox | None) -> None:
        """Give one job its one ending."""
        lease = watched.lease
        logs.JOB.set(lease.job_id)  # Of this task alone.
        try:
            if sandbox is not None:
                await self._start(watched, sandbox)
                if watched.told_to_stop:
                    # While it was being started it could not hear of that.
                    with contextlib.suppress(RunnerAway):
                        await self._runner.stop(lease.job_id, lease.attempt)
            await self._wait_for_end(watched)
        except LeaseLost:
            log.warning("job %s was taken over; leaving it alone", lease.job_id)
            await self._end_superseded(lease)
        except Exception:
            log.exception("job %s stopped; it is taken up again when its lease ends", lease.job_id)
        finally:
            del self._watched[lease.token]

    async def _end_superseded(self, lease: Lease) -> None:
        """Kill the sandbox of an attempt that is over for everybody, so that none runs beside it.

        Whoever took the lease over may have adopted this very sandbox; then it is theirs.
        """
        try:
            async with self._database.reading() as session:
                job = await session.get_one(Job, lease.job_id)
            if job.attempt > lease.attempt or job.status == Status.QUEUED:
                await self._runner.kill(lease.job_id, lease.attempt)
        except Exception:
            # Its key is revoked, so it ends by itself at its next word.
            log.exception("what is left of job %s here cannot be ended", lease.job_id)

    async def _start(self, watched: Watched, sandbox: Sandbox) -> None:
        """Start a sandbox; while the runner is away, only asking again tells what became of it."""
        while not watched.lost and not watched.told_to_stop:
            try:
                await self._runner.start(sandbox)
            except RunnerAway as away:
                await self._say(watched, str(away))
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
                    break
                await self._say(watched, None)
                await self._hurry(watched)
            except RunnerAway as away:
                # Could not ask is not ended.
                await self._say(watched, str(away))
            if watched.lost:
                raise LeaseLost(lease.job_id)
            await asyncio.sleep(self._settings.poll_seconds)
        # Before the lease is given back: after it nobody would look here again.
        with contextlib.suppress(RunnerAway):
            await self._runner.clean(lease.job_id, lease.attempt)
        await self._settled(watched, state, output)

    async def _say(self, watched: Watched, trouble: str | None) -> None:
        """Show on the job that its runner does not answer, and later that it does again."""
        if watched.away == (trouble is not None):
            return
        async with self._database.writing() as session:
            job = await queue.held(session, watched.lease)
            if job.status not in ENDED:
                set_phase(session, job, job.phase or "starting", trouble)
        watched.away = trouble is not None
        log.info("job %s: %s", watched.lease.job_id, trouble or "the runner answers again")

    async def _settled(self, watched: Watched, state: Exited | Lost, output: list[str]) -> None:
        async with self._database.writing() as session:
            job = await queue.held(session, watched.lease)
            await settle(
                session,
                job,
                state,
                settings=self._settings,
                told_to_stop=watched.told_to_stop,
                output=output,
            )
        log.info("job %s, attempt %d: %s", job.id, job.attempt, job.status)

    async def _hurry(self, watched: Watched) -> None:
        """Stop a sandbox that should be ending by itself and does not."""
        news, lease = watched.news, watched.lease
        if news is None or watched.told_to_stop or not (news.ended or news.cancel_wished):
            return
        if watched.overdue_since is None:
            watched.overdue_since = time.monotonic()
        if time.monotonic() - watched.overdue_since > self._settings.cancel_grace_seconds:
            await self._runner.stop(lease.job_id, lease.attempt)
            watched.told_to_stop = True

    async def _let_go(self, abandon: asyncio.Event) -> None:
        watched = list(self._watched.values())
        if self._settings.on_stop == "leave" or abandon.is_set():
            await self._leave(watched)
            return
        for each in watched:
            each.told_to_stop = True
            with contextlib.suppress(RunnerAway):
                await self._runner.stop(each.lease.job_id, each.lease.attempt)
        # Twice the grace: by then only a runner that does not answer is left to wait for.
        until = time.monotonic() + 2 * self._settings.stop_grace_seconds + 1
        while self._watched and not abandon.is_set() and time.monotonic() < until:
            with contextlib.suppress(Exception):
                await self._renew()
            await _first(abandon, seconds=self._settings.poll_seconds)
        if self._watched:
            await self._leave(list(self._watched.values()))

    async def _leave(self, watched: list[Watched]) -> None:
        """Stop watching; the next dispatcher takes over at once."""
        for each in watched:
            if each.task is not None:
                each.task.cancel()
        for each in watched:
            with contextlib.suppress(LeaseLost):
                async with self._database.writing() as session:
                    await queue.expire(session, each.lease)


def sandbox_of(settings: Settings, job: Job, org: str, workspace: str, key: str) -> Sandbox:
    """Describe the sandbox of a claimed job.

    Its environment holds the key of this one job, the engine's key for this one run, and nothing
    else of the server's.
    """
    environment = {
        **clean_environment(settings, Path("/")),
        **tracking.environment(job.config, settings),
        "DREADNODE_SERVER": settings.public_url,
        "DREADNODE_API_KEY": key,
        "DREADNODE_ORGANIZATION": org,
        "DREADNODE_WORKSPACE": workspace,
        "DREADNODE_JOB_ATTEMPT": str(job.attempt),
        "TINKER_API_KEY": (
            run_key(settings.engine_key, job.lineage, settings.job_wall_seconds + 3600)
            if settings.engine_key
            else settings.tinker_api_key
        ),
        "TINKER_TELEMETRY": "0",
    }
    if settings.engine_url:
        environment["TINKER_BASE_URL"] = settings.engine_url
    return Sandbox(
        job_id=job.id,
        attempt=job.attempt,
        command=(*settings.runtime_command, "--job-id", job.id),
        environment=environment,
        limits=Limits(
            memory_bytes=settings.job_memory_bytes,
            cpu_seconds=settings.job_cpu_seconds,
            wall_seconds=settings.job_wall_seconds,
            open_files=settings.job_open_files,
            processes=settings.job_processes,
            disk_bytes=settings.job_disk_bytes,
            output_bytes=settings.job_output_bytes,
        ),
        stop_grace=settings.stop_grace_seconds,
        orphan_seconds=settings.job_orphan_seconds,
    )


def host_id(data_dir: Path) -> str:
    """Return the name of the machine whose sandboxes have their folders under `data_dir`."""
    path = data_dir / "host.id"
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        file.write(new_id())
    return path.read_text().strip()


async def _first(*events: asyncio.Event, seconds: float) -> None:
    """Return when one of `events` is set, or after `seconds`."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
