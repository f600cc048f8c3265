"""The checkpoint from which a retry of an ended job can resume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The newest checkpoint of a job, and those before it.

    Attributes:
        artifacts: the job's artifacts that name checkpoints, without the expired ones.
        step: optimizer steps of the newest checkpoint; 0 if there is none, None if unknown.
        has_expired: whether the job had checkpoints and all of them have expired.
    """

    artifacts: dict[str, Any]
    step: int | None
    has_expired: bool


async def find_resume_point(session: AsyncSession, job: Job) -> ResumePoint:
    """Return the resume point of a job, which may be a checkpoint of a job that it retried.

    The job's artifacts list its checkpoints: an attempt that started over does not list those of
    earlier attempts. The rows say which of them have expired.
    """
    rows = await _rows(session, job)
    paths = _paths(job, rows)
    expired = {row.path for row in rows if row.state == State.EXPIRED}
    available = [path for path in paths if path not in expired]
    if not available:
        return ResumePoint({}, step=0, has_expired=bool(paths))
    artifacts: dict[str, Any] = {"latest_checkpoint": available[-1]}
    if "checkpoints" in job.artifacts:
        artifacts["checkpoints"] = available
    best = job.artifacts.get("best_checkpoint")
    if best is not None and best not in expired:
        artifacts["best_checkpoint"] = best
    steps = (row.step for row in rows if row.path == available[-1] and row.step is not None)
    return ResumePoint(artifacts, step=next(steps, None), has_expired=False)


async def _rows(session: AsyncSession, job: Job) -> Sequence[Checkpoint]:
    """Return the training checkpoints of a job and of the jobs that it retries, oldest first."""
    chain = [job.id]
    previous = job.retry_of
    while previous is not None:
        chain.append(previous)
        previous = await session.scalar(select(Job.retry_of).where(Job.id == previous))
    found = await session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id.in_(chain), Checkpoint.kind == "training")
        .order_by(Checkpoint.number)
    )
    return found.all()


def _paths(job: Job, rows: Sequence[Checkpoint]) -> list[str]:
    """Return the paths of a job's checkpoints, the newest last.

    A loop that reports only the newest one does not say which others belong to it, so all do.
    """
    listed = job.artifacts.get("checkpoints")
    if not isinstance(listed, list):
        listed = [row.path for row in rows if row.job_id == job.id]
    newest = job.artifacts.get("latest_checkpoint")
    paths = [path for path in listed if isinstance(path, str) and path != newest]
    return [*paths, newest] if isinstance(newest, str) else paths
