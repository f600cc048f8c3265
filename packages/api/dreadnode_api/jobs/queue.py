"""The queue: five statements on the jobs table. `tables.py` draws the states.

A claim gives a job a lease; every later write of the dispatcher names it. Whoever holds no
lease any more writes nothing. Two facts make this safe across processes and machines: a lease is
only ever taken from a job that has none or whose lease has run out, and both happens inside one
transaction with the row locked.

No two machines need agree about the time, and a clock may jump. Moments are the database's. From
another machine a lease is taken only when its holder was seen not to renew it for as long as it
lasts, counted by the watcher's own `time.monotonic()`; a dispatcher of the same machine, to which
the sandbox is not lost, need not wait for that when the lease has run out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import Select, and_, false, func, literal_column, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import clock
from dreadnode_api.jobs.records import end, forget_unfinished, move, record, revoke_keys, set_phase
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.jobs import ENDED, LONG_AGO, Job, Status, Turn

LONGEST_PAUSE = timedelta(minutes=10)
"""No attempt waits for longer; one that seems to was queued before the clock was set back."""

# Claims on PostgreSQL take turns, which makes the limit of a workspace exact.
_TURN = 0x646E5F63


class LeaseLost(Exception):
    """Another dispatcher has this job now; write nothing more about it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one attempt at one job."""

    job_id: str
    attempt: int
    token: str


async def claim(
    session: AsyncSession, host: str, seconds: float, per_workspace: int, in_all: int = 0
) -> Job | None:
    """Take the next queued job for its next attempt, or None when there is none to take.

    Fair between workspaces: the one with the fewest running jobs comes first, and among equals
    the one whose last turn is longest ago, however many jobs another has queued. Within a
    workspace the oldest job comes first.

    Args:
        session: the transaction.
        host: whose sandboxes the taker starts.
        seconds: how long the lease lasts.
        per_workspace: the most jobs of one workspace that may run.
        in_all: the most jobs that may run on this server; 0 means no limit.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
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
        # Somebody writes to it at this moment, as a cancellation does; the next look tells.
        return None
    turns = select(func.coalesce(func.max(Turn.turn), 0))
    turn = (await session.scalar(turns) or 0) + 1
    await session.merge(Turn(workspace_id=job.workspace_id, turn=turn))
    await move(session, job, Status.RUNNING)
    job.attempt += 1
    job.applied_seq = 0
    job.started_at = job.started_at or now()
    _take(job, host, at + timedelta(seconds=seconds))
    record(session, job, "status", data={"status": Status.RUNNING.value, "attempt": job.attempt})
    set_phase(session, job, "starting")
    # An earlier attempt that lives on somewhere must not write any more.
    await revoke_keys(session, job.id)
    return job


def _next(per_workspace: int, at: datetime) -> Select[tuple[str]]:
    """Return the question for the next job; what it costs depends on the number of workspaces."""
    is_due = or_(Job.available_at <= at, Job.available_at > at + LONGEST_PAUSE)
    busy = (
        select(Job.workspace_id, func.count().label("running"))
        .where(Job.lease.is_not(None))
        .group_by(Job.workspace_id)
        .subquery()
    )
    oldest = (
        select(Job.id)
        # Spelt out, because neither database takes a partial index for a parameter.
        .where(Job.status == literal_column("'queued'"), is_due)
        .where(Job.workspace_id == Workspace.id)
        .order_by(Job.id)
        .limit(1)
        .correlate(Workspace)
        .scalar_subquery()
    )
    running = func.coalesce(busy.c.running, 0)
    waiting = (
        select(oldest.label("job_id"), running.label("running"), Turn.turn.label("turn"))
        .select_from(Workspace)
        .outerjoin(busy, busy.c.workspace_id == Workspace.id)
        .outerjoin(Turn, Turn.workspace_id == Workspace.id)
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


async def others(session: AsyncSession, own: Collection[str]) -> dict[str, datetime]:
    """Return the leases that others hold, with the end of each, which moves at each renewal."""
    found = await session.execute(
        select(Job.lease, Job.lease_until).where(Job.lease.is_not(None), Job.lease.not_in(own))
    )
    return {token: until for token, until in found if token is not None and until is not None}


async def adopt(
    session: AsyncSession,
    host: str,
    seconds: float,
    own: Collection[str] = (),
    silent: Mapping[str, datetime] = MappingProxyType({}),
) -> Job | None:
    """Take over a job whose lease nobody renews: its dispatcher is dead or cut off.

    The attempt stays the same, for its sandbox may live. If it lives on another machine, it is
    out of reach, and the next attempt's claim takes its key away.

    Args:
        session: the transaction.
        host: whose sandboxes the taker reaches.
        seconds: how long its lease lasts.
        own: the leases that the taker holds.
        silent: the leases of others that were not renewed for as long as one lasts, with the end
            that each had all that time.
    """
    at = await clock(session)
    unmoved = [and_(Job.lease == token, Job.lease_until == end) for token, end in silent.items()]
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
class News:
    """What the holder of a lease must know of its job."""

    ended: bool
    cancel_wished: bool


async def renew(session: AsyncSession, leases: Sequence[Lease], seconds: float) -> dict[str, News]:
    """Prolong leases, and return the news by lease; one that is missing there is lost."""
    until = await clock(session) + timedelta(seconds=seconds)
    found = await session.execute(
        update(Job)
        .where(Job.lease.in_([lease.token for lease in leases]))
        .values(lease_until=until, updated_at=Job.updated_at)
        .returning(Job.lease, Job.status, Job.cancel_requested_at)
        .execution_options(synchronize_session=False)
    )
    return {
        token: News(status in ENDED, wish is not None)
        for token, status, wish in found
        if token is not None
    }


async def held(session: AsyncSession, lease: Lease) -> Job:
    """Return the job of `lease`, locked for writing.

    Raises:
        LeaseLost: another dispatcher has it now.
    """
    job: Job | None = await session.scalar(
        select(Job).where(Job.id == lease.job_id, Job.lease == lease.token).with_for_update()
    )
    if job is None:
        raise LeaseLost(lease.job_id)
    return job


def release(job: Job) -> None:
    """Give the lease of a locked job back: nothing of its sandbox is left."""
    job.lease = job.lease_until = job.host = None


async def expire(session: AsyncSession, lease: Lease) -> None:
    """Leave a living sandbox to the next dispatcher here, at once instead of after the lease."""
    job = await held(session, lease)
    job.lease_until = LONG_AGO


async def requeue(
    session: AsyncSession, job: Job, reason: str, *, wait: float = 0, fault: bool = True
) -> None:
    """Put a locked job back into the queue for its next attempt."""
    job.faults += fault
    await move(session, job, Status.QUEUED)
    pause = min(timedelta(seconds=wait), LONGEST_PAUSE)
    job.available_at = await clock(session) + pause if wait else LONG_AGO
    release(job)
    record(
        session,
        job,
        "status",
        f"Attempt {job.attempt} ended: {reason}; the job is queued again",
        level="warning" if fault else "info",
        data={"status": Status.QUEUED.value, "attempt": job.attempt, "fault": fault},
    )
    set_phase(session, job, "waiting for capacity", reason)
    await forget_unfinished(session, job.id)
    await revoke_keys(session, job.id)


async def finish(
    session: AsyncSession, job: Job, status: Status, *, error: str | None = None, code: str | None
) -> None:
    """End a locked job, unless it has ended already, and give its lease back."""
    if job.status not in ENDED:
        await end(session, job, status, error=error, code=code)
    release(job)
