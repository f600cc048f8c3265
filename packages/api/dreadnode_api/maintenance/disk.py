"""What takes the space of a data directory: by kind, and by job and dataset."""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.engine_client import SCHEME
from dreadnode_api.maintenance.backup import is_database
from dreadnode_api.models.auth import Organization
from dreadnode_api.models.capabilities import RegistryBlob
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.datasets import DatasetVersion
from dreadnode_api.models.jobs import Job, JobFile, StepRollouts
from dreadnode_api.settings import Settings

DATASETS, JOB_FILES, CAPABILITIES = "datasets", "files of jobs", "capabilities"
UNUSED, CHECKPOINTS, SANDBOXES = "unused blobs", "checkpoints", "sandbox folders"
FOLDERS = {
    "checkpoints": CHECKPOINTS,
    "jobs": SANDBOXES,
    "snapshots": "states of runs",
    "samplers": "temporary weights",
    "models": "converted models",
    "logs": "logs",
    "tmp": "temporary files",
}
"""The kind of each folder of the data directory, except that of the blobs."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data: its size in bytes, and what frees it."""

    kind: str
    bytes: int
    how_to_free: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A job or a version of a dataset, with the bytes of its files, and what frees them."""

    kind: str
    name: str
    organization: str
    bytes: int
    how_to_free: str


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """The use of a data directory; files that two holders share count for both of them."""

    data_dir: str
    bytes: int
    disk_free_bytes: int
    kinds: list[Kind]
    holders: list[Holder]


async def disk_usage(session: AsyncSession, settings: Settings) -> DiskUsage:
    """Return what takes the space, the largest first."""
    root = settings.data_dir
    by_kind: Counter[str] = Counter()
    blobs: dict[str, int] = {}
    runs: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for path, size in _files(root):
        top, *rest = path.parts
        if top == "blobs":
            blobs[path.name] = size
            continue
        by_kind[FOLDERS.get(top, "databases" if is_database(top) else "other")] += size
        if rest and FOLDERS.get(top) == CHECKPOINTS:
            runs[rest[0]] += size
        elif rest and FOLDERS.get(top) == SANDBOXES:
            folders[rest[0]] += size
    used, holders = await _of_blobs(session, blobs)
    for digest, size in blobs.items():
        by_kind[used.get(digest, UNUSED)] += size
    holders += await _of_jobs(session, blobs, runs, folders)
    advice = _advice(settings)
    kinds = [Kind(kind, size, advice.get(kind, "")) for kind, size in by_kind.most_common() if size]
    holders.sort(key=lambda each: (-each.bytes, each.name))
    free = shutil.disk_usage(root).free
    return DiskUsage(str(root), by_kind.total(), free, kinds, holders)


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                # A link counts as itself: what it names may be anywhere.
                yield path.relative_to(root), path.lstat().st_size
            except FileNotFoundError:
                continue


async def _of_blobs(
    session: AsyncSession, blobs: dict[str, int]
) -> tuple[dict[str, str], list[Holder]]:
    """Return the kind of each blob in use, and the versions of datasets."""
    kinds = dict.fromkeys(await session.scalars(select(RegistryBlob.sha256)), CAPABILITIES)
    kinds |= dict.fromkeys(await session.scalars(select(JobFile.sha256)), JOB_FILES)
    versions = await session.execute(
        select(DatasetVersion, Organization.slug)
        .join(Organization, Organization.id == DatasetVersion.org_id)
        .where(DatasetVersion.deleted_at.is_(None))
    )
    holders = []
    for version, slug in versions:
        digests = {d for split in version.splits for d in (split.sha256, split.content_sha256)}
        kinds |= dict.fromkeys(digests, DATASETS)
        ref = f"{version.name}@{version.version}"
        size = sum(blobs.get(digest, 0) for digest in digests)
        holders.append(Holder("dataset", ref, slug, size, f"dn dataset delete {ref}"))
    return kinds, holders


async def _of_jobs(
    session: AsyncSession, blobs: dict[str, int], runs: Counter[str], folders: Counter[str]
) -> list[Holder]:
    sizes: defaultdict[str, int] = defaultdict(int, folders)
    for job_id, digest in await session.execute(select(JobFile.job_id, JobFile.sha256).distinct()):
        sizes[job_id] += blobs.get(digest, 0)
    kept = select(StepRollouts.job_id, func.sum(StepRollouts.bytes)).group_by(StepRollouts.job_id)
    for job_id, size in await session.execute(kept):
        sizes[job_id] += size
    paths = await session.execute(select(Checkpoint.job_id, Checkpoint.path))
    # A retry lists checkpoints of the run of the job that it retries, which count for both.
    for job_id, run in {
        (job_id, path.removeprefix(SCHEME).partition("/")[0]) for job_id, path in paths
    }:
        sizes[job_id] += runs.get(run, 0)
    jobs = await session.execute(
        select(Job.id, Organization.slug).join(Organization, Organization.id == Job.org_id)
    )
    return [
        Holder("job", job_id, slug, sizes[job_id], f"dn train delete {job_id}")
        for job_id, slug in jobs
        if sizes.get(job_id)
    ]


def _advice(settings: Settings) -> dict[str, str]:
    return {
        DATASETS: "dn dataset delete NAME@VERSION",
        JOB_FILES: "dn train delete JOB",
        CAPABILITIES: "dn capability delete NAME@VERSION",
        CHECKPOINTS: "dn train delete JOB --checkpoint NAME",
        UNUSED: _after("DREADNODE_UPLOAD_DAYS", settings.upload_days),
        SANDBOXES: _after("DREADNODE_SANDBOX_DAYS", settings.sandbox_days),
        "states of runs": "freed when the run is over",
        "temporary weights": "freed within hours",
        "converted models": "remove it while the server is stopped",
        "logs": "bounded",
        "temporary files": "freed when the API starts",
        "databases": _after("DREADNODE_LOG_DAYS", settings.log_days),
    }


def _after(variable: str, days: float) -> str:
    if not days:
        return f"kept; set {variable}"
    return f"freed after {days:g} {'day' if days == 1 else 'days'} ({variable})"
