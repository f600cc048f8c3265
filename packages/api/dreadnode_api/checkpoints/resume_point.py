"""What of an ended job's checkpoints a repetition of it can go on from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a job's checkpoints.

    Attributes:
        artifacts: those of the job's artifacts that name checkpoints, without the expired ones.
        step: optimizer steps that the newest one holds; 0 if none is left, None if nobody told.
        let_go: whether the job had checkpoints of which none is left.
    """

    artifacts: dict[str, Any]
    step: int | None
    let_go: bool


async def remains_of(session: AsyncSession, job: Job) -> Remains:
    """Return what is left of the checkpoints of a job, of those too that it was handed itself.

    Which they are is said by its artifacts: an attempt that started over has left out those of
    the attempts before. Whether they are left is said by the rows.
    """
    rows = await _rows(session, job)
    paths = _paths(job, rows)
    expired = {row.path for row in rows if row.state == State.EXPIRED}
    left = [path for path in paths if path not in expired]
    if not left:
        return Remains({}, step=0, let_go=bool(paths))
    artifacts: dict[str, Any] = {"latest_checkpoint": left[-1]}
    if "checkpoints" in job.artifacts:
        artifacts["checkpoints"] = left
    best = job.artifacts.get("best_checkpoint")
    if best is not None and best not in expired:
        artifacts["best_checkpoint"] = best
    steps = (row.step for row in rows if row.path == left[-1] and row.step is not None)
    return Remains(artifacts, step=next(steps, None), let_go=False)


async def _rows(session: AsyncSession, job: Job) -> Sequence[Checkpoint]:
    """Return the checkpoints to go on from of a job and of those that it repeats, as told."""
    chain = [job.id]
    before = job.retry_of
    while before is not None:
        chain.append(before)
        before = await session.scalar(select(Job.retry_of).where(Job.id == before))
    found = await session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id.in_(chain), Checkpoint.kind == "training")
        .order_by(Checkpoint.number)
    )
    return found.all()


def _paths(job: Job, rows: Sequence[Checkpoint]) -> list[str]:
    """Return the paths of a job's checkpoints, the newest last.

    A loop that tells only the newest one has not told which others belong to it: all it saved do.
    """
    told = job.artifacts.get("checkpoints")
    if not isinstance(told, list):
        told = [row.path for row in rows if row.job_id == job.id]
    newest = job.artifacts.get("latest_checkpoint")
    paths = [path for path in told if isinstance(path, str) and path != newest]
    return [*paths, newest] if isinstance(newest, str) else paths
