"""Reading and cancelling jobs, as functions of a session."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import quotas
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.jobs.records import end_job, lock, record_event, set_phase, set_status
from dreadnode_api.models.auth import User
from dreadnode_api.models.base import now
from dreadnode_api.models.jobs import ENDED, Event, Job, MetricPoints, Status, Tally
from dreadnode_api.settings import Settings

MAX_LINES = 10_000


async def enqueue(
    session: AsyncSession, settings: Settings, job: Job, phase: str, reason: str | None
) -> None:
    """Put a new job into the queue, which is its table.

    Raises:
        Conflict: the organization's quota of queued jobs is used up.
    """
    session.add(job)
    await session.flush()  # Before the events that refer to it.
    await quotas.require(session, settings, job.org_id, "queued_jobs", is_added=True)
    await set_status(session, job, Status.QUEUED, new=True)
    record_event(session, job, "status", data={"status": Status.QUEUED.value, "attempt": 0})
    set_phase(session, job, phase, reason)


async def get_job(session: AsyncSession, workspace_id: str, job_id: str) -> Job:
    """Return a job.

    Raises:
        NotFound: the workspace has no job with this id.
    """
    job = await session.get(Job, job_id)
    if job is None or job.workspace_id != workspace_id:
        raise NotFound(f"There is no job `{job_id}` in this workspace; see `dn train list`")
    return job


async def get_creator(session: AsyncSession, job: Job) -> User | None:
    """Return the user who created a job."""
    return await session.get(User, job.created_by) if job.created_by else None


async def metric_history(session: AsyncSession, job_id: str) -> Sequence[MetricPoints]:
    """Return the metric history of a job, in order."""
    found = await session.scalars(
        select(MetricPoints).where(MetricPoints.job_id == job_id).order_by(MetricPoints.number)
    )
    return found.all()


async def log_lines(
    session: AsyncSession,
    job: Job,
    *,
    after: int = 0,
    before: int | None = None,
    levels: Sequence[str] = (),
    since: datetime | None = None,
    tail: int | None = None,
    query: str | None = None,
) -> Sequence[Any]:
    """Return lines of a job's log, oldest first: at most MAX_LINES, or only the last TAIL.

    AFTER and BEFORE are numbers of lines, between which the lines are. A line is a row with some
    fields of its `Event`, which is read faster than the whole object.
    """
    statement = select(
        Event.number, Event.level, Event.message, Event.data, Event.created_at
    ).where(Event.job_id == job.id, Event.number > after, Event.message.is_not(None))
    if before is not None:
        statement = statement.where(Event.number < before)
    if levels:
        statement = statement.where(Event.level.in_(levels))
    if since is not None:
        statement = statement.where(Event.created_at >= since)
    if query is not None:
        statement = statement.where(Event.message.icontains(query, autoescape=True))
    order = Event.number.desc() if tail is not None else Event.number
    found = (await session.execute(statement.order_by(order).limit(tail or MAX_LINES))).all()
    return found[::-1] if tail is not None else found


async def list_jobs(
    session: AsyncSession,
    workspace_id: str,
    filters: Mapping[str, str | Sequence[str] | None],
    page: int,
    page_size: int,
    *,
    before: str | None = None,
) -> tuple[Sequence[tuple[Job, User | None]], int]:
    """Return a page of jobs, newest first, with their creators, and the number of all jobs.

    With BEFORE, the first page has the jobs that are older than the job of this id.
    """
    values = {name: value for name, value in filters.items() if value is not None}
    where = [Job.workspace_id == workspace_id, *(_matches(*each) for each in values.items())]
    total = await _count(session, workspace_id, values, where)
    # The pages before this one are skipped in the index alone, without reading their jobs.
    ids = (
        select(Job.id)
        .where(*where, *([] if before is None else [Job.id < before]))
        .order_by(Job.id.desc())
        .offset((page - 1) * page_size)
        .limit(page_size)
        .subquery()
    )
    found = await session.execute(
        select(Job, User)
        .join(ids, ids.c.id == Job.id)
        .outerjoin(User, User.id == Job.created_by)
        .order_by(Job.id.desc())
    )
    return [(job, user) for job, user in found], total


def _matches(name: str, value: str | Sequence[str]) -> ColumnElement[bool]:
    """Return the condition of one filter of the list of jobs; a sequence is a choice."""
    if not isinstance(value, str):
        chosen: ColumnElement[bool] = getattr(Job, name).in_(value)
        return chosen
    if name == "text":
        is_named: ColumnElement[bool] = Job.name.icontains(value, autoescape=True)
        return or_(is_named, Job.id.startswith(value, autoescape=True))
    if name == "id_prefix":
        return Job.id.startswith(value, autoescape=True)
    if name == "tag":
        # A quoted string is an element of the list: quotes inside of one are escaped.
        return cast(Job.tags, String).contains(json.dumps(value), autoescape=True)
    if name == "username":
        return Job.created_by.in_(select(User.id).where(User.username == value))
    column: ColumnElement[bool] = getattr(Job, name) == value
    return column


async def _count(
    session: AsyncSession,
    workspace_id: str,
    values: dict[str, str | Sequence[str]],
    where: Sequence[ColumnElement[bool]],
) -> int:
    """Return how many jobs match: from the counts by status, where they have each filter."""
    if not values.keys() <= set(Tally.__table__.columns.keys()):
        statement = select(func.count()).select_from(Job).where(*where)
    else:
        statement = select(func.sum(Tally.number)).where(Tally.workspace_id == workspace_id)
        for name, value in values.items():
            column = getattr(Tally, name)
            chosen = column == value if isinstance(value, str) else column.in_(value)
            statement = statement.where(chosen)
    return int(await session.scalar(statement) or 0)


async def cancel_job(session: AsyncSession, workspace_id: str, job_id: str) -> Job:
    """End a queued job immediately, or ask a running one to stop after its step.

    Raises:
        Conflict: the job has ended.
        NotFound: there is no such job.
    """
    job = await lock(session, (await get_job(session, workspace_id, job_id)).id)
    if job.status in ENDED:
        raise Conflict(f"The job `{job_id}` is already {job.status} and cannot be cancelled")
    if job.cancel_requested_at is None:
        job.cancel_requested_at = now()
        if job.status == Status.QUEUED:
            await end_job(session, job, Status.CANCELLED)
        else:
            set_phase(session, job, "cancelling", "the loop stops after its step")
    return job
