"""Which jobs use a version of a dataset."""

import json
from collections.abc import Sequence

from sqlalchemy import String, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.datasets.deletion import dataset_refs
from dreadnode_api.models.jobs import Job

CANDIDATES = 500
"""How many jobs that mention the name are read: other versions have the same name."""


async def jobs_using(
    session: AsyncSession, workspace_id: str, name: str, version: str, limit: int
) -> Sequence[Job]:
    """Return at most LIMIT jobs of a workspace that read a version, newest first."""
    found = await session.scalars(
        select(Job)
        .where(
            Job.workspace_id == workspace_id,
            cast(Job.config, String).contains(json.dumps(name), autoescape=True),
            cast(Job.config, String).contains(json.dumps(version), autoescape=True),
        )
        .order_by(Job.id.desc())
        .limit(CANDIDATES)
    )
    return [job for job in found if (name, version) in dataset_refs(job.config)][:limit]
