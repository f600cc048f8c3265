"""Deletes an ended job with everything that belongs to it."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_references import referenced
from dreadnode_api.checkpoints.in_use import check_not_in_use
from dreadnode_api.checkpoints.records import job_checkpoints
from dreadnode_api.errors import Conflict
from dreadnode_api.jobs.records import lock, remove_from_counts
from dreadnode_api.jobs.service import get_job
from dreadnode_api.models.auth import Token
from dreadnode_api.models.checkpoints import Checkpoint, DeletedCheckpoint
from dreadnode_api.models.checks import Validation
from dreadnode_api.models.jobs import ENDED, Event, Job, JobFile, MetricPoints, StepRollouts
from dreadnode_api.models.webhooks import Announcement
from dreadnode_api.pricing.ledger import keep_cost


async def delete_job(session: AsyncSession, workspace_id: str, job_id: str) -> Sequence[str]:
    """Delete a job, and return the digests of the files that no row refers to now.

    The engine deletes its checkpoints with the next cleanup, except those that a retry still has.

    Raises:
        NotFound: there is no such job.
        Conflict: it has not ended, or its sandbox has not, or another job retries it or reads its
            checkpoints.
    """
    job = await lock(session, (await get_job(session, workspace_id, job_id)).id)
    if job.status not in ENDED:
        raise Conflict(f"The job `{job_id}` is {job.status}; cancel it before you delete it")
    if job.lease is not None:
        raise Conflict(f"The sandbox of the job `{job_id}` is still ending; try again in a moment")
    retry = await session.scalar(select(Job.id).where(Job.retry_of == job_id).limit(1))
    if retry is not None:
        raise Conflict(
            f"The job `{retry}` retries the job `{job_id}` and uses its checkpoints; delete "
            f"`{retry}` first"
        )
    paths = {row.path for row in await job_checkpoints(session, job_id)}
    await check_not_in_use(session, sorted(paths))
    digests = set(await session.scalars(select(JobFile.sha256).where(JobFile.job_id == job_id)))
    tables = (
        *(Validation, Announcement, Event, MetricPoints),
        *(StepRollouts, JobFile, Checkpoint, Token),
    )
    for table in tables:
        await session.execute(
            delete(table).where(table.job_id == job_id).execution_options(synchronize_session=False)
        )
    await remove_from_counts(session, job)
    keep_cost(session, job)
    await session.delete(job)
    await session.flush()
    kept = set(await session.scalars(select(Checkpoint.path).where(Checkpoint.path.in_(paths))))
    session.add_all(DeletedCheckpoint(path=path) for path in sorted(paths - kept))
    return sorted(digests - await referenced(session, digests))
