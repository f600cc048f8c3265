"""Explains why a queued job waits: its position, the limit that holds it, and the jobs that run."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import clock
from dreadnode_api.models.auth import User
from dreadnode_api.models.jobs import NOT_READY, Job, Status
from dreadnode_api.settings import Settings

JOBS_NAMED = 3
"""How many running jobs an explanation names."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a queued job waits.

    Attributes:
        position: its place among the queued jobs of its workspace, from 1.
        reason: one sentence with the position and the limit.
    """

    position: int
    reason: str


async def explain_waiting(session: AsyncSession, job: Job, settings: Settings) -> Waiting | None:
    """Return why JOB waits, or None if it is not queued or cannot be claimed yet."""
    if job.status != Status.QUEUED or job.phase in NOT_READY:
        return None
    queued = select(func.count()).where(
        Job.workspace_id == job.workspace_id,
        Job.status == Status.QUEUED,
        func.coalesce(Job.phase, "").not_in(NOT_READY),
    )
    total = await session.scalar(queued) or 0
    position = await session.scalar(queued.where(Job.id <= job.id)) or 1
    cause = await _cause(session, job, settings)
    return Waiting(position, f"position {position} of {total} in this workspace; {cause}")


async def _cause(session: AsyncSession, job: Job, settings: Settings) -> str:
    seconds = (job.available_at - await clock(session)).total_seconds()
    if seconds > 0:
        return f"attempt {job.attempt + 1} starts in {seconds:.0f} s, after: {job.phase_reason}"
    leased = Job.lease.is_not(None)
    of_workspace = await _count(session, leased, Job.workspace_id == job.workspace_id)
    of_server = await _count(session, leased)
    jobs = await _running_jobs(session, job.workspace_id)
    if of_workspace >= settings.jobs_at_once_per_workspace:
        return (
            f"the workspace runs {of_workspace}, the most at once "
            f"(`DREADNODE_JOBS_AT_ONCE_PER_WORKSPACE`): {jobs}"
        )
    others = of_server - of_workspace
    where = f"{others} in other workspaces" + (f", here {jobs}" if jobs else "")
    if settings.jobs_at_once_in_all and of_server >= settings.jobs_at_once_in_all:
        return (
            f"the server runs {of_server} jobs, the most at once "
            f"(`DREADNODE_JOBS_AT_ONCE_IN_ALL`): {where}"
        )
    if of_server >= settings.jobs_at_once:
        return (
            f"the server runs {of_server} jobs, and a dispatcher at most {settings.jobs_at_once} "
            f"at once (`DREADNODE_JOBS_AT_ONCE`): {where}"
        )
    return "a dispatcher starts it within seconds"


async def _count(session: AsyncSession, *where: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(Job).where(*where)
    return await session.scalar(statement) or 0


async def _running_jobs(session: AsyncSession, workspace_id: str) -> str:
    """Return the running jobs of a workspace with the users who created them, oldest first."""
    found = await session.execute(
        select(Job.id, User.username)
        .outerjoin(User, User.id == Job.created_by)
        .where(Job.lease.is_not(None), Job.workspace_id == workspace_id)
        .order_by(Job.id)
    )
    rows = found.all()
    named = [f"`{job_id}`" + (f" of {user}" if user else "") for job_id, user in rows[:JOBS_NAMED]]
    more = [f"and {len(rows) - JOBS_NAMED} more"] if len(rows) > JOBS_NAMED else []
    return ", ".join([*named, *more])
