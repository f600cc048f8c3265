"""The files of a job: rows that refer to blobs, within limits."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import Incoming
from dreadnode_api.errors import Malformed, NotFound
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.settings import Settings

MAX_FILES = 1000


async def add_file(
    session: AsyncSession, job: Job, path: str, incoming: Incoming, settings: Settings
) -> JobFile:
    """Record INCOMING as a file of a locked job, in place of one with the same path.

    The caller still has to keep the incoming bytes.

    Raises:
        Malformed: the job would have too many files, or too large ones.
    """
    others, held = (
        await session.execute(
            select(func.count(), func.coalesce(func.sum(JobFile.bytes), 0)).where(
                JobFile.job_id == job.id, JobFile.path != path
            )
        )
    ).one()
    if others >= MAX_FILES or held + incoming.bytes > settings.job_disk_bytes:
        raise Malformed(
            f"A job may have {MAX_FILES} files of {settings.job_disk_bytes:,} bytes together"
        )
    return await session.merge(
        JobFile(job_id=job.id, path=path, bytes=incoming.bytes, sha256=incoming.sha256)
    )


async def job_files(session: AsyncSession, job_id: str) -> Sequence[JobFile]:
    """Return the files of a job, by path."""
    found = await session.scalars(
        select(JobFile).where(JobFile.job_id == job_id).order_by(JobFile.path)
    )
    return found.all()


async def get_file(session: AsyncSession, job: Job, path: str) -> JobFile:
    """Return a file of a job.

    Raises:
        NotFound: the job has no such file.
    """
    found = await session.get(JobFile, (job.id, path))
    if found is None:
        raise NotFound(f"The job `{job.id}` has no file `{path}`")
    return found
