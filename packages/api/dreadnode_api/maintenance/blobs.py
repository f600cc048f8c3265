"""Deletion of blobs that nothing refers to, and of files that broken uploads left.

A push of a capability sends its blobs before the manifest that refers to them, and a client does
not send a blob again that is here already. So a blob is deleted only when it was neither sent nor
requested nor referred to for as long as the settings say, which is longer than any push takes. The
manifest's transaction writes to the rows of its blobs, so a push and a cleanup at the same moment
cannot both succeed for one blob. The file is deleted within the transaction that deletes the row: a
process that ends between the two leaves a row without a file, which counts as not sent. A process
that ends after it wrote a file and before it committed the row leaves a file without a row; so the
files on the disk are compared with the rows, too.
"""

from datetime import datetime, timedelta

from anyio import to_thread
from sqlalchemy import and_, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_references import NOT_DELETED, referenced
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database
from dreadnode_api.models.base import now
from dreadnode_api.models.capabilities import CapabilityVersion, RegistryBlob

BATCH = 500


async def clean_up(database: Database, store: BlobStore, days: float) -> dict[str, int]:
    """Delete what has been unused for DAYS, and return how much of what; 0 days keep all."""
    if not days:
        return {}
    before = now() - timedelta(days=days)
    async with database.writing() as session:
        old = await _delete_unused_rows(session, before)
        old |= await _drop_manifests(session, before)
        unused = old - await referenced(session, old)
        deleted = [
            await to_thread.run_sync(store.delete_unused, sha256, before.timestamp())
            for sha256 in sorted(unused)
        ]
    return {
        "unused blobs": sum(deleted) + await _delete_orphans(database, store, before),
        "broken uploads": await to_thread.run_sync(store.delete_partial, before.timestamp()),
    }


async def _delete_unused_rows(session: AsyncSession, before: datetime) -> set[str]:
    """Delete the rows of blobs that no capability of their organization refers to."""
    refers_to_it = or_(
        CapabilityVersion.sha256 == RegistryBlob.sha256,
        CapabilityVersion.config_sha256 == RegistryBlob.sha256,
        # Pushed before the digest of the config was stored: any blob may be it.
        and_(
            CapabilityVersion.manifest_sha256.is_not(None),
            CapabilityVersion.config_sha256.is_(None),
        ),
    )
    used = exists().where(
        CapabilityVersion.org_id == RegistryBlob.org_id, NOT_DELETED, refers_to_it
    )
    old = await session.scalars(
        select(RegistryBlob)
        .where(RegistryBlob.used_at < before, ~used)
        # A locked row is about to be referred to. Waiting for it while holding other rows could
        # deadlock with the push.
        .with_for_update(skip_locked=True)
    )
    digests = set()
    for each in old:
        digests.add(each.sha256)
        await session.delete(each)
    await session.flush()
    return digests


async def _drop_manifests(session: AsyncSession, before: datetime) -> set[str]:
    """Drop the manifests of deleted versions; their rows stay, so their names stay taken."""
    deleted = await session.scalars(
        select(CapabilityVersion).where(
            CapabilityVersion.deleted_at < before, CapabilityVersion.manifest_sha256.is_not(None)
        )
    )
    dropped = set()
    for each in deleted:
        dropped.add(each.manifest_sha256 or "")
        each.manifest_sha256 = None
    await session.flush()
    return dropped


async def _delete_orphans(database: Database, store: BlobStore, before: datetime) -> int:
    """Delete the files on the disk that no row refers to, and return how many."""
    old = await to_thread.run_sync(store.written_before, before.timestamp())
    deleted = 0
    for start in range(0, len(old), BATCH):
        batch = set(old[start : start + BATCH])
        async with database.reading() as session:
            orphans = batch - await referenced(session, batch)
        if not orphans:
            continue
        async with database.writing() as session:
            for sha256 in sorted(orphans - await referenced(session, orphans)):
                deleted += await to_thread.run_sync(store.delete_unused, sha256, before.timestamp())
    return deleted
