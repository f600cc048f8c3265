"""Deletes versions of datasets, and keeps those that unfinished jobs read."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_references import referenced
from dreadnode_api.datasets.service import get_version
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import now
from dreadnode_api.models.datasets import DatasetVersion
from dreadnode_api.models.jobs import ENDED, Job


def dataset_refs(config: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return name and version of each dataset that the config of a job names."""
    single = ("dataset_ref", "prompt_dataset_ref", "eval_dataset_ref")
    refs = [config[key] for key in single if config.get(key)]
    refs += config.get("trajectory_dataset_refs") or []
    return {(ref["name"], ref["version"]) for ref in refs}


async def keep_for_job(session: AsyncSession, org_id: str, config: Mapping[str, Any]) -> None:
    """Lock the datasets of a new job, so that no deletion commits before the job is visible.

    Raises:
        Conflict: one of them was deleted.
    """
    for name, version in sorted(dataset_refs(config)):
        try:
            await _locked(session, org_id, name, version, read=True)
        except NotFound as error:
            raise Conflict(error.detail) from None


async def _locked(
    session: AsyncSession, org_id: str, name: str, version: str, *, read: bool = False
) -> DatasetVersion:
    found = await get_version(session, org_id, name, version)
    await session.refresh(found, with_for_update={"read": read})
    # It may have been deleted before the lock was there.
    return await get_version(session, org_id, name, version)


async def delete_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> tuple[DatasetVersion, Collection[str]]:
    """Delete a version, and return it with the digests of the files that no row refers to now.

    Raises:
        NotFound: it does not exist.
        Conflict: a job that has not ended reads it.
    """
    found = await _locked(session, org_id, name, version)
    unfinished = await session.execute(
        select(Job.id, Job.status, Job.config)
        .join(Workspace, Workspace.id == Job.workspace_id)
        .where(Workspace.org_id == org_id, Job.status.not_in(ENDED))
        .order_by(Job.id)
    )
    for job_id, status, config in unfinished:
        if (name, version) in dataset_refs(config):
            raise Conflict(
                f"The job `{job_id}` is {status} and uses `{name}@{version}`; wait for its end or "
                "cancel it before you delete the dataset"
            )
    digests = {found.sha256}
    digests |= {digest for each in found.splits for digest in (each.sha256, each.content_sha256)}
    found.deleted_at = now()
    await session.flush()
    return found, digests - await referenced(session, digests)
