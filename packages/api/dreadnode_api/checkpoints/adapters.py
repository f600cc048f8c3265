"""Adapters of checkpoints among the files of their job: kept whole, found again, and let go.

    checkpoints/step-000010/adapter_config.json
    checkpoints/step-000010/adapter_model.safetensors

A row's `adapter` is its folder; attempts of a job may use a name twice, so the second one's folder
has a number behind it. What is there is listed in the job's artifacts, `checkpoint_adapters`.
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
from dreadnode_api.checkpoints.choice import name_of
from dreadnode_api.db import Database
from dreadnode_api.jobs import files
from dreadnode_api.jobs.records import lock
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.settings import Settings

FILES = ("adapter_config.json", "adapter_model.safetensors")
ARTIFACT = "checkpoint_adapters"
BATCH = 200
_LONGEST_NAME = 100


async def files_of(session: AsyncSession, checkpoint: Checkpoint) -> Sequence[JobFile]:
    """Return the files of a checkpoint's adapter, by path; none if nobody has asked for it yet."""
    if checkpoint.adapter is None:
        return []
    paths = [f"{checkpoint.adapter}{name}" for name in FILES]
    found = await session.scalars(
        select(JobFile)
        .where(JobFile.job_id == checkpoint.job_id, JobFile.path.in_(paths))
        .order_by(JobFile.path)
    )
    return found.all()


async def keep(
    session: AsyncSession,
    checkpoint: Checkpoint,
    made: Mapping[str, Incoming],
    settings: Settings,
) -> Sequence[JobFile]:
    """Keep what was MADE, by name, as the adapter of a checkpoint, all of it or nothing.

    Raises:
        Malformed: the job would have too many files, or too much in them.
    """
    job = await lock(session, checkpoint.job_id)
    row = await session.get_one(Checkpoint, (job.id, checkpoint.path), populate_existing=True)
    if row.adapter is None:
        row.adapter = await _folder(session, row)
        job.artifacts = {**job.artifacts, ARTIFACT: await _folders(session, job)}
    rows = [
        await files.add(session, job, f"{row.adapter}{name}", incoming, settings)
        for name, incoming in sorted(made.items())
    ]
    for incoming in made.values():
        incoming.keep()
    return rows


async def let_go(database: Database, store: BlobStore, days: float) -> int:
    """Delete the adapters of checkpoints that expired DAYS ago, and return how many.

    0 days keep them. Bytes are deleted within the transaction that takes their rows, as in
    `maintenance.blobs`.
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
        old = found.all()
    gone = 0
    for each in old:
        async with database.writing() as session:
            # An export that was under way when its checkpoint expired may be younger.
            if any(file.created_at >= before for file in await files_of(session, each)):
                continue
            for sha256 in await _forget(session, each):
                await to_thread.run_sync(store.delete_unused, sha256, before.timestamp())
        gone += 1
    return gone


async def _forget(session: AsyncSession, checkpoint: Checkpoint) -> Sequence[str]:
    """Delete the rows of an adapter's files, and return the digests that no row names now."""
    job = await lock(session, checkpoint.job_id)
    gone = await files_of(session, checkpoint)
    for each in gone:
        await session.delete(each)
    row = await session.get_one(Checkpoint, (job.id, checkpoint.path))
    row.adapter = None
    job.artifacts = {**job.artifacts, ARTIFACT: await _folders(session, job)}
    digests = {each.sha256 for each in gone}
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


async def _folder(session: AsyncSession, checkpoint: Checkpoint) -> str:
    """Return a folder for a checkpoint's adapter that no other one of its job has."""
    job = await session.get_one(Job, checkpoint.job_id)
    taken = set(await _folders(session, job))
    # A sandbox may call a checkpoint anything.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name_of(checkpoint)).lstrip("._-")[:_LONGEST_NAME]
    plain = f"checkpoints/{name or 'checkpoint'}"
    numbered = (f"{plain}-{number}/" for number in itertools.count(2))
    return next(each for each in itertools.chain([f"{plain}/"], numbered) if each not in taken)
