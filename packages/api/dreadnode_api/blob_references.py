"""Which blobs are in use: every database column that contains the digest of a blob."""

from collections.abc import Iterable

from sqlalchemy import select, union
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.capabilities import CapabilityVersion, RegistryBlob
from dreadnode_api.models.datasets import DatasetSplit, DatasetVersion
from dreadnode_api.models.jobs import JobFile

NOT_DELETED = CapabilityVersion.deleted_at.is_(None)
OF_DATASET = DatasetSplit.version_id.in_(
    select(DatasetVersion.id).where(DatasetVersion.deleted_at.is_(None))
)
COLUMNS = (
    (DatasetVersion.sha256, DatasetVersion.deleted_at.is_(None)),
    (DatasetSplit.sha256, OF_DATASET),
    (DatasetSplit.content_sha256, OF_DATASET),
    (JobFile.sha256, None),
    (RegistryBlob.sha256, None),
    (CapabilityVersion.sha256, NOT_DELETED),
    (CapabilityVersion.manifest_sha256, NOT_DELETED),
    (CapabilityVersion.config_sha256, NOT_DELETED),
)
"""Each column that refers to a blob, and the condition on the rows that count."""


async def referenced(session: AsyncSession, digests: Iterable[str]) -> set[str]:
    """Return those of DIGESTS that a row refers to."""
    wanted = sorted(digests)
    if not wanted:
        return set()
    selects = [
        select(column).where(column.in_(wanted), *([] if condition is None else [condition]))
        for column, condition in COLUMNS
    ]
    return set(await session.scalars(union(*selects)))
