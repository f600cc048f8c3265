"""Adapters of checkpoints, stored among the files of their job.

    checkpoints/step-000010/adapter_config.json
    checkpoints/step-000010/adapter_model.safetensors

The column `adapter` of a checkpoint is its folder. Attempts of a job may use a name twice, so the
folder of the second one ends with a number. The job's artifact `checkpoint_adapters` lists all
folders.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

from anyio import to_thread
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_references import referenced
from dreadnode_api.blob_store import BlobStore, Incoming
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.db import Database
from dreadnode_api.jobs import files
from dreadnode_api.jobs.records import lock
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.settings import Settings

FILES = ("adapter_config.json", "adapter_model.safetensors")
CARD = "README.md"
"""The model card; adapters that older versions exported have none."""
ARTIFACT = "checkpoint_adapters"
BATCH = 200
_LONGEST_NAME = 100


async def adapter_files(session: AsyncSession, checkpoint: Checkpoint) -> Sequence[JobFile]:
    """Return the files of a checkpoint's adapter by path; none if it was not exported yet."""
    if checkpoint.adapter is None:
        return []
    paths = [f"{checkpoint.adapter}{name}" for name in (*FILES, CARD)]
    found = await session.scalars(
        select(JobFile)
        .where(JobFile.job_id == checkpoint.job_id, JobFile.path.in_(paths))
        .order_by(JobFile.path)
    )
    return found.all()


async def store_adapter(
    session: AsyncSession,
    checkpoint: Checkpoint,
    incoming: Mapping[str, Incoming],
    settings: Settings,
) -> Sequence[JobFile]:
    """Store all files of INCOMING, by name, as the adapter of a checkpoint.

    Raises:
        Malformed: the job would have too many files, or too large ones.
    """
    job = await lock(session, checkpoint.job_id)
    row = await session.get_one(Checkpoint, (job.id, checkpoint.path), populate_existing=True)
    if row.adapter is None:
        row.adapter = await _new_folder(session, row)
        job.artifacts = {**job.artifacts, ARTIFACT: await _folders(session, job)}
    rows = [
        await files.add_file(session, job, f"{row.adapter}{name}", each, settings)
        for name, each in sorted(incoming.items())
    ]
    for each in incoming.values():
        each.keep()
    return rows


async def delete_expired(database: Database, store: BlobStore, days: float) -> int:
    """Delete the adapters of checkpoints that expired DAYS ago, and return how many; 0 keeps all.

    Files are deleted in the transaction that deletes their rows.
    """
    if not days:
        return 0
    before = now() - timedelta(days=days)
    async with database.reading() as session:
        found = await session.scalars(
            select(Checkpoint)
            .where(
                Checkpoint.state == State.EXPIRED,
                Checkpoint.adapter.is_not(None),
                Checkpoint.expired_at < before,
            )
            .limit(BATCH)
        )
        expired = found.all()
    deleted = 0
    for each in expired:
        async with database.writing() as session:
            # An export that was running when its checkpoint expired may be younger.
            if any(file.created_at >= before for file in await adapter_files(session, each)):
                continue
            for sha256 in await delete_adapter(session, each):
                await to_thread.run_sync(store.delete_unused, sha256, before.timestamp())
        deleted += 1
    return deleted


async def delete_adapter(session: AsyncSession, checkpoint: Checkpoint) -> Sequence[str]:
    """Delete the rows of an adapter's files, and return the digests that no row refers to now."""
    job = await lock(session, checkpoint.job_id)
    deleted = await adapter_files(session, checkpoint)
    for each in deleted:
        await session.delete(each)
    row = await session.get_one(Checkpoint, (job.id, checkpoint.path))
    row.adapter = None
    job.artifacts = {**job.artifacts, ARTIFACT: await _folders(session, job)}
    digests = {each.sha256 for each in deleted}
    return sorted(digests - await referenced(session, digests))


async def _folders(session: AsyncSession, job: Job) -> list[str]:
    """Return the folders that hold adapters of a job's checkpoints."""
    await session.flush()
    found = await session.scalars(
        select(Checkpoint.adapter)
        .where(Checkpoint.job_id == job.id, Checkpoint.adapter.is_not(None))
        .order_by(Checkpoint.number)
    )
    return [each for each in found if each is not None]


async def _new_folder(session: AsyncSession, checkpoint: Checkpoint) -> str:
    """Return a folder for a checkpoint's adapter that its job does not use yet."""
    job = await session.get_one(Job, checkpoint.job_id)
    taken = set(await _folders(session, job))
    # A sandbox may give a checkpoint any name.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint_name(checkpoint)).lstrip("._-")
    plain = f"checkpoints/{name[:_LONGEST_NAME] or 'checkpoint'}"
    numbered = (f"{plain}-{number}/" for number in itertools.count(2))
    return next(each for each in itertools.chain([f"{plain}/"], numbered) if each not in taken)
