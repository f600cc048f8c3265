"""Datasets as functions of a session."""

import hashlib
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import quotas
from dreadnode_api.auth.callers import Caller
from dreadnode_api.datasets.push import UploadedSplit
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.datasets import DatasetSplit, DatasetVersion
from dreadnode_api.settings import Settings
from dreadnode_api.versions import find_version, versions_of


async def add_version(
    session: AsyncSession,
    settings: Settings,
    caller: Caller,
    name: str,
    version: str,
    splits: Sequence[UploadedSplit],
) -> tuple[DatasetVersion, bool]:
    """Store SPLITS as a version, and return whether it is new.

    Raises:
        Conflict: the version exists with other files, or the organization's quota is used up.
    """
    existing = await find_version(session, DatasetVersion, caller.org_id, name, version)
    if existing is not None:
        if {(s.name, s.format, s.sha256) for s in existing.splits} != {
            (s.name, s.format, s.file.sha256) for s in splits
        }:
            raise Conflict(
                f"Version `{version}` of `{name}` exists with other rows, and a version never "
                "changes; push a new version"
            )
        if existing.deleted_at is None:
            return existing, False
    stored = {file.sha256: file.bytes for split in splits for file in (split.file, split.content)}
    await quotas.require(session, settings, caller.org_id, "datasets")
    await quotas.require(session, settings, caller.org_id, "stored_bytes", sum(stored.values()))
    if existing is not None:
        await _restore(session, existing, splits)
        return existing, True
    formats = {split.format for split in splits}
    made = DatasetVersion(
        org_id=caller.org_id,
        name=name,
        version=version,
        format=formats.pop() if len(formats) == 1 else "mixed",
        rows=sum(split.rows for split in splits),
        bytes=sum(split.file.bytes for split in splits),
        sha256=digest(splits),
        created_by=caller.user_id,
        splits=[_split_row(position, split) for position, split in enumerate(splits)],
    )
    try:
        async with session.begin_nested():
            session.add(made)
    except IntegrityError:
        # Another upload of the same version was faster; now it can be found.
        return await add_version(session, settings, caller, name, version, splits)
    _keep(splits)
    return made, True


async def _restore(
    session: AsyncSession, found: DatasetVersion, splits: Sequence[UploadedSplit]
) -> None:
    """Store the files of a deleted version again."""
    by_name = {split.name: split for split in splits}
    for row in found.splits:
        content = by_name[row.name].content
        row.content_bytes, row.content_sha256 = content.bytes, content.sha256
    found.deleted_at = None
    await session.flush()
    _keep(splits)


def _keep(splits: Sequence[UploadedSplit]) -> None:
    """Keep the files before their rows are visible, so that no row refers to missing bytes."""
    for split in splits:
        split.file.keep()
        if split.content is not split.file:
            split.content.keep()


def digest(splits: Sequence[UploadedSplit]) -> str:
    """Return the digest of the only file, or the digest of the list of several files.

    The list has one line for each split, sorted: name, format and digest, separated by spaces.
    """
    if len(splits) == 1:
        return splits[0].file.sha256
    lines = sorted(f"{split.name} {split.format} {split.file.sha256}\n" for split in splits)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _split_row(position: int, split: UploadedSplit) -> DatasetSplit:
    return DatasetSplit(
        name=split.name,
        position=position,
        format=split.format,
        rows=split.rows,
        bytes=split.file.bytes,
        sha256=split.file.sha256,
        content_bytes=split.content.bytes,
        content_sha256=split.content.sha256,
    )


def split_of(found: DatasetVersion, wanted: str | None, otherwise: str = "train") -> DatasetSplit:
    """Return the split WANTED; without it the only one, or the one called OTHERWISE.

    Raises:
        NotFound: the version has no such split; the message names those that it has.
    """
    if wanted is None and len(found.splits) == 1:
        return found.splits[0]
    for split in found.splits:
        if split.name == (wanted or otherwise):
            return split
    names = ", ".join(f"`{split.name}`" for split in found.splits)
    dataset = f"`{found.name}@{found.version}`"
    if wanted is None:
        raise NotFound(f"{dataset} has the splits {names}; name one of them")
    raise NotFound(f"{dataset} does not have the split `{wanted}`; it has {names}")


async def get_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> DatasetVersion:
    """Return one version.

    Raises:
        NotFound: it does not exist; the message names versions that do.
    """
    found = await find_version(session, DatasetVersion, org_id, name, version)
    if found is None:
        raise NotFound(await _missing(session, org_id, name, version))
    if found.deleted_at is not None:
        raise NotFound(
            f"The dataset `{name}@{version}` was deleted; push the same files under this version "
            "again, or name another one"
        )
    return found


async def _missing(session: AsyncSession, org_id: str, name: str, version: str) -> str:
    known = await versions_of(session, DatasetVersion, org_id, name)
    if not known:
        return f"This organization has no dataset `{name}`; see `dn dataset list`"
    newest = ", ".join(f"`{each.version}`" for each in known[:3])
    return f"The dataset `{name}` does not have the version `{version}`; its newest are {newest}"


async def list_versions(session: AsyncSession, org_id: str, name: str) -> Sequence[DatasetVersion]:
    """Return all versions of a dataset, newest first.

    Raises:
        NotFound: the dataset does not exist.
    """
    found = await versions_of(session, DatasetVersion, org_id, name)
    if not found:
        raise NotFound(f"This organization has no dataset `{name}`; see `dn dataset list`")
    return found
