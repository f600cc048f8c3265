"""What pushes have left behind: blobs that nothing names, and the files of broken uploads.

A push of a capability sends its blobs before the manifest that names them, and a client that finds
a blob here does not send it again. So a blob is only let go when it was neither sent nor looked for
nor named for as long as the settings say, which is longer than any push takes; and the manifest's
transaction writes to the rows of its blobs, so that a push and a tidying at the same moment see of
each other all or nothing. The file goes within the transaction that takes the row: a process that
ends between the two leaves a row without a file, which counts as not sent.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from anyio import to_thread
from sqlalchemy import and_, exists, or_, select, union
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database, now
from dreadnode_api.models.capabilities import CapabilityVersion, RegistryBlob
from dreadnode_api.models.datasets import DatasetSplit, DatasetVersion
from dreadnode_api.models.jobs import JobFile

_LIVES = CapabilityVersion.deleted_at.is_(None)
NAMING = (
    (DatasetVersion.sha256, None),
    (DatasetSplit.sha256, None),
    (DatasetSplit.content_sha256, None),
    (JobFile.sha256, None),
    (RegistryBlob.sha256, None),
    (CapabilityVersion.sha256, _LIVES),
    (CapabilityVersion.manifest_sha256, _LIVES),
    (CapabilityVersion.config_sha256, _LIVES),
)
"""Every column that names a blob, and the rows of it that count."""


async def tidy(database: Database, store: BlobStore, days: float) -> dict[str, int]:
    """Let go of what was left behind DAYS ago, and return how much of what; 0 days keep it all."""
    if not days:
        return {}
    before = now() - timedelta(days=days)
    async with database.writing() as session:
        old = await _unnamed(session, before)
        old |= await _manifests(session, before)
        free = old - await named(session, old)
        gone = [
            await to_thread.run_sync(store.let_go, sha256, before.timestamp())
            for sha256 in sorted(free)
        ]
    return {
        "blobs without a name": sum(gone),
        "broken uploads": await to_thread.run_sync(store.sweep, before.timestamp()),
    }


async def _unnamed(session: AsyncSession, before: datetime) -> set[str]:
    """Delete the rows of blobs that no capability of their organization names."""
    names_it = or_(
        CapabilityVersion.sha256 == RegistryBlob.sha256,
        CapabilityVersion.config_sha256 == RegistryBlob.sha256,
        # Pushed before the config was written down: any blob may be it.
        and_(
            CapabilityVersion.manifest_sha256.is_not(None),
            CapabilityVersion.config_sha256.is_(None),
        ),
    )
    named = exists().where(CapabilityVersion.org_id == RegistryBlob.org_id, _LIVES, names_it)
    old = await session.scalars(
        select(RegistryBlob)
        .where(RegistryBlob.used_at < before, ~named)
        # Whoever holds a row is about to name it. To wait for one row while holding another is
        # how a push and a tidying would wait for each other.
        .with_for_update(skip_locked=True)
    )
    digests = set()
    for each in old:
        digests.add(each.sha256)
        await session.delete(each)
    await session.flush()
    return digests


async def _manifests(session: AsyncSession, before: datetime) -> set[str]:
    """Forget the manifests of deleted versions; the rows stay and keep their names taken."""
    deleted = await session.scalars(
        select(CapabilityVersion).where(
            CapabilityVersion.deleted_at < before, CapabilityVersion.manifest_sha256.is_not(None)
        )
    )
    forgotten = set()
    for each in deleted:
        forgotten.add(each.manifest_sha256 or "")
        each.manifest_sha256 = None
    await session.flush()
    return forgotten


async def named(session: AsyncSession, digests: Iterable[str]) -> set[str]:
    """Return those of DIGESTS that a row names."""
    wanted = sorted(digests)
    if not wanted:
        return set()
    selects = [
        select(column).where(column.in_(wanted), *([] if which is None else [which]))
        for column, which in NAMING
    ]
    return set(await session.scalars(union(*selects)))
