"""The writes to a job that all modules share: lock it, record an event, end it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.auth import Token
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import ENDED, REHEARSING, Event, Job, Status, Tally
from dreadnode_api.models.webhooks import Announcement

QUEUED_PHASE = "waiting for capacity"
QUEUED_REASON = "in the queue"
FINAL_EVENT_GRACE = timedelta(minutes=2)
"""How long an ended job's token still works, so that a sandbox can repeat its last event."""


async def lock(session: AsyncSession, job_id: str) -> Job:
    """Return an existing job for writing; other writers wait until this transaction ends.

    Raises:
        sqlalchemy.exc.NoResultFound: the job was deleted.
    """
    return await session.get_one(Job, job_id, with_for_update=True, populate_existing=True)


def record_event(
    session: AsyncSession,
    job: Job,
    kind: str,
    message: str | None = None,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> int:
    """Add an event to a locked job and return its number.

    The number comes from the job's own row. Events therefore become visible in order, and a reader
    that has seen number n has seen all events before it.
    """
    job.events += 1
    job.updated_at = now()
    session.add(
        Event(
            job_id=job.id,
            number=job.events,
            type=kind,
            level=level,
            message=message,
            data=data or {},
        )
    )
    if kind == "status":
        # In the same transaction, so that webhooks miss no change.
        session.add(Announcement(job_id=job.id, number=job.events))
    return job.events


def set_phase(session: AsyncSession, job: Job, phase: str, reason: str | None = None) -> None:
    """Set what a locked job is doing, and record an event if that changes."""
    if (job.phase, job.phase_reason) != (phase, reason):
        job.phase, job.phase_reason = phase, reason
        record_event(session, job, "phase", data={"phase": phase, "reason": reason})


async def set_status(session: AsyncSession, job: Job, status: Status, *, new: bool = False) -> None:
    """Set the status of a locked or new job, and update the counts of jobs."""
    changes = {str(status): 1} if new else {job.status: -1, str(status): 1}
    job.status = status
    await _count(session, job, changes)


async def remove_from_counts(session: AsyncSession, job: Job) -> None:
    """Update the counts of jobs for a job that is deleted."""
    await _count(session, job, {job.status: -1})


async def _count(session: AsyncSession, job: Job, changes: Mapping[str, int]) -> None:
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    # Always in the same order, so that two transactions never wait for each other.
    for state, change in sorted(changes.items()):
        statement = insert(Tally).values(
            workspace_id=job.workspace_id,
            status=state,
            backend=job.backend,
            trainer_type=job.trainer_type,
            number=change,
        )
        await session.execute(
            statement.on_conflict_do_update(
                index_elements=list(Tally.__table__.primary_key),
                set_={"number": Tally.number + change},
            )
        )


async def end_job(
    session: AsyncSession,
    job: Job,
    status: Status,
    *,
    error: str | None = None,
    code: str | None = None,
) -> None:
    """End a locked job: set its status, record its last event, and let its tokens expire."""
    if job.status in ENDED:
        raise ValueError(f"job {job.id} has already ended")
    await set_status(session, job, status)
    await delete_unfinished_checkpoints(session, job.id)
    job.phase = job.phase_reason = None
    job.error, job.error_code = error, code
    job.completed_at = now()
    message = error or {
        Status.COMPLETED: "The job is complete",
        Status.CANCELLED: "The job is cancelled",
    }.get(status)
    record_event(
        session,
        job,
        "status",
        message,
        level="error" if status == Status.FAILED else "info",
        data={"status": status.value, "error_code": code},
    )
    if job.rehearsal:
        await _release_after_rehearsal(session, job)
    # A sandbox may repeat its last event for a short time.
    await session.execute(
        update(Token)
        .where(Token.job_id == job.id, Token.revoked_at.is_(None))
        .values(expires_at=now() + FINAL_EVENT_GRACE)
    )


async def release_after_rehearsal(session: AsyncSession, job: Job, rehearsal: Job) -> None:
    """Queue a locked job that waits for REHEARSAL, or end it, if the rehearsal has ended."""
    if rehearsal.status == Status.COMPLETED:
        set_phase(session, job, QUEUED_PHASE, QUEUED_REASON)
    elif rehearsal.status in ENDED:
        why = f": {rehearsal.error}" if rehearsal.error else ""
        await end_job(
            session,
            job,
            Status.FAILED,
            error=f"The rehearsal `{rehearsal.id}` is {rehearsal.status}{why}",
            code="rehearsal_failed",
        )
    else:
        reason = f"the job starts if the rehearsal `{rehearsal.id}` completes"
        set_phase(session, job, REHEARSING, reason)


async def release(session: AsyncSession, job: Job) -> None:
    """Queue a locked job that has passed its check, behind its rehearsal if it has one."""
    rehearsal = None
    if job.rehearsal_id is not None:
        # Locked, so that it does not end between this look and the end of this transaction.
        rehearsal = await session.get(
            Job, job.rehearsal_id, with_for_update=True, populate_existing=True
        )
    if rehearsal is None:
        set_phase(session, job, QUEUED_PHASE, QUEUED_REASON)
    else:
        await release_after_rehearsal(session, job, rehearsal)


async def _release_after_rehearsal(session: AsyncSession, rehearsal: Job) -> None:
    waiting = await session.scalars(
        select(Job)
        .where(
            Job.rehearsal_id == rehearsal.id,
            Job.status == Status.QUEUED,
            Job.phase == REHEARSING,
        )
        .with_for_update()
    )
    for job in waiting.all():
        await release_after_rehearsal(session, job, rehearsal)


async def delete_unfinished_checkpoints(session: AsyncSession, job_id: str) -> None:
    """Delete the rows of checkpoints that were being written, because their sandbox has ended."""
    await session.execute(
        delete(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.state == State.WRITING)
        .execution_options(synchronize_session=False)
    )


async def revoke_tokens(session: AsyncSession, job_id: str) -> None:
    """Revoke the tokens of all attempts of a job so far, so that none of them writes again."""
    await session.execute(
        update(Token)
        .where(Token.job_id == job_id, Token.revoked_at.is_(None))
        .values(revoked_at=now())
    )
