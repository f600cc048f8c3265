"""Deletes a checkpoint: its adapter immediately, and its weights on the engine soon after."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.checkpoints.adapters import delete_adapter
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.checkpoints.in_use import check_not_in_use
from dreadnode_api.checkpoints.records import job_checkpoints
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import ENDED, Job


async def delete_checkpoint(session: AsyncSession, job: Job, name: str) -> Sequence[str]:
    """Delete the checkpoint NAME of a locked job, and return the digests of its unused files.

    The rows stay, as `expired`, and the engine deletes the weights with the next cleanup.

    Raises:
        NotFound: the job has no checkpoint of that name.
        Conflict: it is being written, or an unfinished job resumes from it or reads it.
    """
    saved = await job_checkpoints(session, job.id)
    rows = [row for row in saved if checkpoint_name(row) == name]
    if not rows:
        raise NotFound(
            f"The job `{job.id}` has no checkpoint `{name}`; see `dn train checkpoints {job.id}`"
        )
    if any(row.state == State.WRITING for row in rows):
        raise Conflict(f"The checkpoint `{name}` is still being written; try again in a moment")
    paths = [row.path for row in rows]
    await _check_unused(session, job, name, paths)
    digests: list[str] = []
    for row in rows:
        digests += await delete_adapter(session, row)
    # A retry lists the checkpoint that it resumed from as its own, too.
    await session.execute(
        update(Checkpoint)
        .where(Checkpoint.path.in_(paths), Checkpoint.state == State.READY)
        .values(state=State.EXPIRED, expired_at=now(), is_best=False, is_final=False)
        .execution_options(synchronize_session=False)
    )
    return digests


async def _check_unused(session: AsyncSession, job: Job, name: str, paths: list[str]) -> None:
    await check_not_in_use(session, paths)
    unfinished = await session.scalars(
        select(Job).where(Job.lineage == job.lineage, Job.status.not_in(ENDED))
    )
    for each in unfinished:
        if each.artifacts.get("latest_checkpoint") in paths:
            raise Conflict(
                f"The job `{each.id}` is {each.status} and would resume from the checkpoint "
                f"`{name}`; cancel the job first"
            )
