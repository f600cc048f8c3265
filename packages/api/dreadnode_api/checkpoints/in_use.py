"""Checkpoints that unfinished jobs will still read: no one may delete them."""

from collections.abc import Iterable, Iterator

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Conflict
from dreadnode_api.models.jobs import ENDED, Job


async def paths_in_use(session: AsyncSession) -> dict[str, Job]:
    """Return the checkpoints that unfinished jobs evaluate or start from, each with one of them."""
    unfinished = await session.scalars(select(Job).where(Job.status.not_in(ENDED)))
    return {path: job for job in unfinished for path in _read_by(job)}


async def check_not_in_use(session: AsyncSession, paths: Iterable[str]) -> None:
    """Return if no unfinished job evaluates one of PATHS or starts from it.

    Raises:
        Conflict: one does.
    """
    used = await paths_in_use(session)
    for path in paths:
        if (job := used.get(path)) is not None:
            raise Conflict(
                f"The job `{job.id}` is {job.status} and reads the checkpoint `{path}`; wait until "
                "it has ended, or cancel it first"
            )


def _read_by(job: Job) -> Iterator[str]:
    for model in job.artifacts.get("models") or ():
        if model["checkpoint"] is not None:
            yield model["checkpoint"]
    if start := job.artifacts.get("from_adapter"):
        yield start["path"]
