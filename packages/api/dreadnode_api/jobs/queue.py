"""The queue: a few statements on the jobs table. `models/jobs.py` shows the states.

A claim gives a job a lease, and every later write of the dispatcher names it. A dispatcher that has
lost its lease writes nothing. This is safe across processes and machines, because a lease is only
taken from a job that has none, or whose lease has expired, in one transaction with the row locked.

Machines need not agree about the time, and a clock may jump: all times are the database's. A lease
of another machine is taken only when its holder did not renew it for a whole lease, measured with
the taker's own `time.monotonic()`. A dispatcher on the same machine still reaches the sandbox, so
it takes an expired lease immediately.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import Select, and_, false, func, literal_column, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import clock
from dreadnode_api.jobs.records import (
    delete_unfinished_checkpoints,
    end_job,
    record_event,
    revoke_tokens,
    set_phase,
    set_status,
)
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.jobs import ENDED, LONG_AGO, NOT_READY, FairShare, Job, Status

LONGEST_PAUSE = timedelta(minutes=10)
"""The longest wait of an attempt; a longer one means that the clock was set back."""

# Claims on PostgreSQL hold this lock one after the other, so the limit of a workspace is exact.
_CLAIM_LOCK = 0x646E5F63


class LeaseLost(Exception):
    """Another dispatcher owns this job now; this one must write nothing more about it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one attempt at a job."""

    job_id: str
    attempt: int
    token: str


async def claim(
    session: AsyncSession, host: str, seconds: float, per_workspace: int, in_all: int = 0
) -> Job | None:
    """Claim the next queued job for its next attempt, or return None if there is none.

    Workspaces share fairly: the one with the fewest running jobs comes first; among equals, the one
    that was served longest ago, however many jobs another one has queued. Within a workspace the
    oldest job comes first.

    Args:
        session: the transaction.
        host: the machine on which the dispatcher starts sandboxes.
        seconds: how long the lease lasts.
        per_workspace: how many jobs of one workspace may run.
        in_all: how many jobs may run on this server; 0 means no limit.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})
    if in_all:
        leased = select(func.count()).select_from(Job).where(Job.lease.is_not(None))
        if (await session.scalar(leased) or 0) >= in_all:
            return None
    at = await clock(session)
    job_id = await session.scalar(_next(per_workspace, at))
    if job_id is None:
        return None
    job: Job | None = await session.scalar(
        select(Job)
        .where(Job.id == job_id, Job.status == Status.QUEUED)
        .with_for_update(skip_locked=True)
    )
    if job is None:
        # Another transaction, such as a cancellation, has locked it; the next claim looks again.
        return None
    latest = select(func.coalesce(func.max(FairShare.turn), 0))
    turn = (await session.scalar(latest) or 0) + 1
    await session.merge(FairShare(workspace_id=job.workspace_id, turn=turn))
    await set_status(session, job, Status.RUNNING)
    job.attempt += 1
    job.applied_seq = 0
    job.started_at = job.started_at or now()
    _take(job, host, at + timedelta(seconds=seconds))
    record_event(
        session, job, "status", data={"status": Status.RUNNING.value, "attempt": job.attempt}
    )
    set_phase(session, job, "starting")
    # An earlier attempt that still runs somewhere must not write any more.
    await revoke_tokens(session, job.id)
    return job


def _next(per_workspace: int, at: datetime) -> Select[tuple[str]]:
    """Return the query for the next job; its cost grows with the workspaces, not with the jobs."""
    is_due = or_(Job.available_at <= at, Job.available_at > at + LONGEST_PAUSE)
    busy = (
        select(Job.workspace_id, func.count().label("running"))
        .where(Job.lease.is_not(None))
        .group_by(Job.workspace_id)
        .subquery()
    )
    oldest = (
        select(Job.id)
        # A literal, because neither database uses a partial index for a parameter.
        .where(Job.status == literal_column("'queued'"), is_due)
        .where(func.coalesce(Job.phase, "").not_in(NOT_READY))
        .where(Job.workspace_id == Workspace.id)
        .order_by(Job.id)
        .limit(1)
        .correlate(Workspace)
        .scalar_subquery()
    )
    running = func.coalesce(busy.c.running, 0)
    waiting = (
        select(oldest.label("job_id"), running.label("running"), FairShare.turn.label("turn"))
        .select_from(Workspace)
        .outerjoin(busy, busy.c.workspace_id == Workspace.id)
        .outerjoin(FairShare, FairShare.workspace_id == Workspace.id)
        .where(running < per_workspace)
        .subquery()
    )
    return (
        select(waiting.c.job_id)
        .where(waiting.c.job_id.is_not(None))
        .order_by(waiting.c.running, func.coalesce(waiting.c.turn, 0), waiting.c.job_id)
        .limit(1)
    )


def _take(job: Job, host: str, until: datetime) -> None:
    job.lease = new_id()
    job.lease_until = until
    job.host = host


async def foreign_leases(session: AsyncSession, own: Collection[str]) -> dict[str, datetime]:
    """Return the leases of other dispatchers with their ends, which every renewal moves."""
    found = await session.execute(
        select(Job.lease, Job.lease_until).where(Job.lease.is_not(None), Job.lease.not_in(own))
    )
    return {token: until for token, until in found if token is not None and until is not None}


async def adopt(
    session: AsyncSession,
    host: str,
    seconds: float,
    own: Collection[str] = (),
    unrenewed: Mapping[str, datetime] = MappingProxyType({}),
) -> Job | None:
    """Take over a job whose lease is not renewed: its dispatcher is dead or disconnected.

    The attempt stays the same, because its sandbox may still run. A sandbox on another machine is
    out of reach, and the claim of the next attempt revokes its token.

    Args:
        session: the transaction.
        host: the machine whose sandboxes the dispatcher reaches.
        seconds: how long its lease lasts.
        own: the leases that the dispatcher holds.
        unrenewed: the leases of others that were not renewed for a whole lease, with the end that
            each had all that time.
    """
    at = await clock(session)
    unmoved = [and_(Job.lease == token, Job.lease_until == end) for token, end in unrenewed.items()]
    job: Job | None = await session.scalar(
        select(Job)
        .where(Job.lease.is_not(None), Job.lease.not_in(own))
        .where(or_(and_(Job.host == host, Job.lease_until < at), or_(false(), *unmoved)))
        .order_by(Job.lease_until)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job is not None:
        _take(job, host, at + timedelta(seconds=seconds))
    return job


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """What the holder of a lease must know about its job."""

    has_ended: bool
    cancel_requested: bool


async def renew(
    session: AsyncSession, leases: Sequence[Lease], seconds: float
) -> dict[str, LeaseStatus]:
    """Extend leases, and return the status of each; a lease without one is lost."""
    until = await clock(session) + timedelta(seconds=seconds)
    found = await session.execute(
        update(Job)
        .where(Job.lease.in_([lease.token for lease in leases]))
        .values(lease_until=until, updated_at=Job.updated_at)
        .returning(Job.lease, Job.status, Job.cancel_requested_at)
        .execution_options(synchronize_session=False)
    )
    return {
        token: LeaseStatus(status in ENDED, cancelled_at is not None)
        for token, status, cancelled_at in found
        if token is not None
    }


async def lock_leased(session: AsyncSession, lease: Lease) -> Job:
    """Return the job of `lease`, locked for writing.

    Raises:
        LeaseLost: another dispatcher owns it now.
    """
    job: Job | None = await session.scalar(
        select(Job).where(Job.id == lease.job_id, Job.lease == lease.token).with_for_update()
    )
    if job is None:
        raise LeaseLost(lease.job_id)
    return job


def release(job: Job) -> None:
    """Release the lease of a locked job whose sandbox has ended."""
    job.lease = job.lease_until = job.host = None


async def expire(session: AsyncSession, lease: Lease) -> None:
    """Let the next dispatcher adopt a running sandbox before the lease expires."""
    job = await lock_leased(session, lease)
    job.lease_until = LONG_AGO


async def requeue(
    session: AsyncSession, job: Job, reason: str, *, wait: float = 0, is_failure: bool = True
) -> None:
    """Put a locked job back into the queue for its next attempt."""
    job.infrastructure_failures += is_failure
    await set_status(session, job, Status.QUEUED)
    pause = min(timedelta(seconds=wait), LONGEST_PAUSE)
    job.available_at = await clock(session) + pause if wait else LONG_AGO
    release(job)
    record_event(
        session,
        job,
        "status",
        f"Attempt {job.attempt} ended: {reason}; the job is queued again",
        level="warning" if is_failure else "info",
        data={"status": Status.QUEUED.value, "attempt": job.attempt, "fault": is_failure},
    )
    set_phase(session, job, "waiting for capacity", reason)
    await delete_unfinished_checkpoints(session, job.id)
    await revoke_tokens(session, job.id)


async def finish(
    session: AsyncSession, job: Job, status: Status, *, error: str | None = None, code: str | None
) -> None:
    """End a locked job, unless it has already ended, and release its lease."""
    if job.status not in ENDED:
        await end_job(session, job, status, error=error, code=code)
    release(job)
