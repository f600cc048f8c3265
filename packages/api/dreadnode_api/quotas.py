"""Quotas: how much of each resource an organization may use, and how much it uses.

The limits come from the server's settings; the operator may set others for single organizations.
The code that creates something checks the quota in the same transaction, after locking the
organization's row, so two requests at the same time cannot both take the last place.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Conflict
from dreadnode_api.models.auth import Organization, Token, Workspace
from dreadnode_api.models.base import now
from dreadnode_api.models.capabilities import RegistryBlob
from dreadnode_api.models.datasets import DatasetSplit, DatasetVersion
from dreadnode_api.models.jobs import Job, JobFile, Status, StepRollouts
from dreadnode_api.models.quotas import Quota
from dreadnode_api.models.webhooks import Webhook
from dreadnode_api.settings import Settings

_WORDS = {
    "stored_bytes": (
        "stored bytes",
        "delete datasets, jobs or checkpoints that are no longer needed",
    ),
    "datasets": (
        "versions of datasets",
        "delete versions that are no longer needed (`dn dataset delete`)",
    ),
    "blobs": ("blobs", "delete capabilities that are no longer needed"),
    "tokens": ("valid tokens", "revoke tokens that are no longer needed"),
    "queued_jobs": ("queued jobs", "wait until a job has started, or cancel one"),
    "webhooks": ("webhooks", "delete one of them"),
}
"""What an error calls each resource, and what it advises."""
RESOURCES = tuple(_WORDS)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a resource an organization uses, and how much it may use; 0 is no limit."""

    resource: str
    used: int
    limit: int


async def require(
    session: AsyncSession,
    settings: Settings,
    org_id: str,
    resource: str,
    adding: int = 1,
    *,
    is_added: bool = False,
) -> None:
    """Return if an organization may use ADDING more of RESOURCE, in a writing transaction.

    With `is_added` the transaction has added it already.

    Raises:
        Conflict: it exceeds the organization's quota.
    """
    # `key_share`: inserts that refer to the row, such as those of jobs, need not wait.
    await session.get_one(Organization, org_id, with_for_update={"key_share": True})
    limit = await _limit(session, settings, org_id, resource)
    if not limit:
        return
    used = await _used(session, org_id, resource) - (adding if is_added else 0)
    if used + adding > limit:
        name, advice = _WORDS[resource]
        raise Conflict(
            f"The organization uses {used:,} of at most {limit:,} {name}, and this needs "
            f"{adding:,} more; {advice}, or ask the server's operator for a higher quota"
        )


async def usage(session: AsyncSession, settings: Settings, org_id: str) -> list[Usage]:
    """Return the usage and the limits of an organization."""
    return [
        Usage(
            resource,
            await _used(session, org_id, resource),
            await _limit(session, settings, org_id, resource),
        )
        for resource in RESOURCES
    ]


async def set_limit(session: AsyncSession, org_id: str, resource: str, limit: int | None) -> None:
    """Set the limit of one organization; None resets it to that of the settings."""
    row = await session.get(Quota, (org_id, resource))
    if limit is None:
        if row is not None:
            await session.delete(row)
    elif row is None:
        session.add(Quota(org_id=org_id, resource=resource, limit=limit))
    else:
        row.limit = limit
    await session.flush()


async def _limit(session: AsyncSession, settings: Settings, org_id: str, resource: str) -> int:
    row = await session.get(Quota, (org_id, resource))
    default: int = getattr(settings, f"quota_{resource}")
    return default if row is None else row.limit


async def _used(session: AsyncSession, org_id: str, resource: str) -> int:
    return sum([await session.scalar(each) or 0 for each in _statements(org_id, resource)])


def _statements(org_id: str, resource: str) -> list[Select[Any]]:
    """Return the queries whose numbers add up to the usage of RESOURCE."""
    workspaces = select(Workspace.id).where(Workspace.org_id == org_id)
    datasets = (DatasetVersion.org_id == org_id, DatasetVersion.deleted_at.is_(None))
    if resource == "stored_bytes":
        # The JSONL of a split is stored as well, unless the file that was pushed is JSONL.
        converted = func.sum(DatasetSplit.content_bytes)
        return [
            select(func.sum(DatasetVersion.bytes)).where(*datasets),
            select(converted)
            .join(DatasetVersion, DatasetVersion.id == DatasetSplit.version_id)
            .where(*datasets, DatasetSplit.format != "jsonl"),
            select(func.sum(RegistryBlob.bytes)).where(RegistryBlob.org_id == org_id),
            # By workspace, because jobs have an index on that and none on the organization.
            *(
                select(func.sum(table.bytes))
                .join(Job, Job.id == table.job_id)
                .where(Job.workspace_id.in_(workspaces))
                for table in (JobFile, StepRollouts)
            ),
        ]
    in_org = select(func.count())
    if resource == "datasets":
        return [in_org.where(*datasets)]
    if resource == "blobs":
        return [in_org.where(RegistryBlob.org_id == org_id)]
    if resource == "tokens":
        is_valid = (
            Token.revoked_at.is_(None),
            (Token.expires_at.is_(None) | (Token.expires_at > now())),
        )
        return [in_org.where(Token.org_id == org_id, Token.job_id.is_(None), *is_valid)]
    if resource == "queued_jobs":
        return [in_org.where(Job.workspace_id.in_(workspaces), Job.status == Status.QUEUED)]
    return [in_org.where(Webhook.workspace_id.in_(workspaces))]
