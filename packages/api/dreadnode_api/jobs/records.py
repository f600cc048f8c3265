"""The few writes to a job that all share: lock it, say what happened, end it."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.auth import Token
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import ENDED, Event, Job, Status, Tally
from dreadnode_api.models.webhooks import Announcement

LAST_WORDS = timedelta(minutes=2)


async def lock(session: AsyncSession, job_id: str) -> Job:
    """Return an existing job for writing; other writers wait for the end of this transaction.

    Raises:
        sqlalchemy.exc.NoResultFound: there is no such job; none is ever deleted.
    """
    return await session.get_one(Job, job_id, with_for_update=True, populate_existing=True)


def record(
    session: AsyncSession,
    job: Job,
    kind: str,
    message: str | None = None,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> int:
    """Add an event to a locked job and return its number.

    The number comes from the job's own row, so events become visible in the order of their
    numbers and a reader that has seen number n has seen all before it.
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
        # In the transaction of the change itself, so that webhooks miss none.
        session.add(Announcement(job_id=job.id, number=job.events))
    return job.events


def set_phase(session: AsyncSession, job: Job, phase: str, reason: str | None = None) -> None:
    """Say what a locked job is doing, if that is news."""
    if (job.phase, job.phase_reason) != (phase, reason):
        job.phase, job.phase_reason = phase, reason
        record(session, job, "phase", data={"phase": phase, "reason": reason})


async def move(session: AsyncSession, job: Job, status: Status, *, new: bool = False) -> None:
    """Bring a locked job into another state, or a new one into its first, and count it there."""
    changes = {status: 1} if new else {job.status: -1, status: 1}
    job.status = status
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    # In one order everywhere, so that two transactions never wait for each other.
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


async def end(
    session: AsyncSession,
    job: Job,
    status: Status,
    *,
    error: str | None = None,
    code: str | None = None,
) -> None:
    """Bring a locked job to its end: its state, its last event, and the death of its keys."""
    if job.status in ENDED:
        raise ValueError(f"job {job.id} has ended already")
    await move(session, job, status)
    await forget_unfinished(session, job.id)
    job.phase = job.phase_reason = None
    job.error, job.error_code = error, code
    job.completed_at = now()
    message = error or {
        Status.COMPLETED: "The job is complete",
        Status.CANCELLED: "The job is cancelled",
    }.get(status)
    record(
        session,
        job,
        "status",
        message,
        level="error" if status == Status.FAILED else "info",
        data={"status": status.value, "error_code": code},
    )
    # Its keys open nothing any more; for a little while a repeated last word is still answered.
    await session.execute(
        update(Token)
        .where(Token.job_id == job.id, Token.revoked_at.is_(None))
        .values(expires_at=now() + LAST_WORDS)
    )


async def forget_unfinished(session: AsyncSession, job_id: str) -> None:
    """Forget the checkpoints that were being written: who would have told of them is gone."""
    await session.execute(
        delete(Checkpoint)
        .where(Checkpoint.job_id == job_id, Checkpoint.state == State.WRITING)
        .execution_options(synchronize_session=False)
    )


async def revoke_keys(session: AsyncSession, job_id: str) -> None:
    """Revoke the keys of every attempt of a job so far, so that none of them writes again."""
    await session.execute(
        update(Token)
        .where(Token.job_id == job_id, Token.revoked_at.is_(None))
        .values(revoked_at=now())
    )
