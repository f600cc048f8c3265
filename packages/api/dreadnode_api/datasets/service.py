"""Datasets as functions of a session."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller
from dreadnode_api.datasets.push import UploadedSplit
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.datasets import DatasetSplit, DatasetVersion


async def add_version(
    session: AsyncSession, caller: Caller, name: str, version: str, splits: Sequence[UploadedSplit]
) -> tuple[DatasetVersion, bool]:
    """Store SPLITS as a version, and return whether it is new.

    Raises:
        Conflict: the version exists with other files; a version never changes.
    """
    held = await _find(session, caller.org_id, name, version)
    if held is not None:
        if {(s.name, s.format, s.sha256) for s in held.splits} != {
            (p.name, p.format, p.file.sha256) for p in splits
        }:
            raise Conflict(
                f"Version `{version}` of `{name}` exists with other rows, and a version never "
                "changes; push under a new version"
            )
        return held, False
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
        return await add_version(session, caller, name, version, splits)
    # Before the row can be seen, so that no row ever names bytes that are not there.
    for split in splits:
        split.file.keep()
        if split.content is not split.file:
            split.content.keep()
    return made, True


def digest(splits: Sequence[UploadedSplit]) -> str:
    """Return the digest of an only file, or that of the list of several.

    The list has a line for each split, sorted: name, format and digest with a blank between them.
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
    """Return the split called `wanted`; if it is left out the only one, or that of `otherwise`.

    Raises:
        NotFound: there is none of this name; the sentence names those that there are.
    """
    if wanted is None and len(found.splits) == 1:
        return found.splits[0]
    for split in found.splits:
        if split.name == (wanted or otherwise):
            return split
    names = ", ".join(f"`{split.name}`" for split in found.splits)
    dataset = f"`{found.name}@{found.version}`"
    if wanted is None:
        raise NotFound(f"{dataset} has the splits {names}; say which one is meant")
    raise NotFound(f"{dataset} has no split `{wanted}`; it has {names}")


async def get_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> DatasetVersion:
    """Return one version.

    Raises:
        NotFound: it does not exist; the sentence names versions that do.
    """
    found = await _find(session, org_id, name, version)
    if found is None:
        raise NotFound(await _missing(session, org_id, name, version))
    return found


async def _find(
    session: AsyncSession, org_id: str, name: str, version: str
) -> DatasetVersion | None:
    found: DatasetVersion | None = await session.scalar(
        select(DatasetVersion).where(
            DatasetVersion.org_id == org_id,
            DatasetVersion.name == name,
            DatasetVersion.version == version,
        )
    )
    return found


async def _missing(session: AsyncSession, org_id: str, name: str, version: str) -> str:
    known = await _versions(session, org_id, name)
    if not known:
        return f"There is no dataset `{name}` in this organization; see `dn dataset list`"
    newest = ", ".join(f"`{each.version}`" for each in known[:3])
    return f"The dataset `{name}` has no version `{version}`; its newest are {newest}"


async def list_versions(session: AsyncSession, org_id: str, name: str) -> Sequence[DatasetVersion]:
    """Return all versions of a dataset, newest first.

    Raises:
        NotFound: there is none.
    """
    found = await _versions(session, org_id, name)
    if not found:
        raise NotFound(f"There is no dataset `{name}` in this organization; see `dn dataset list`")
    return found


async def _versions(session: AsyncSession, org_id: str, name: str) -> Sequence[DatasetVersion]:
    found = await session.scalars(
        select(DatasetVersion)
        .where(DatasetVersion.org_id == org_id, DatasetVersion.name == name)
        .order_by(DatasetVersion.id.desc())
    )
    return found.all()


async def list_datasets(
    session: AsyncSession,
    org_id: str,
    search: str | None,
    page: int,
    page_size: int,
    *,
    sort_by: str = "name",
    descending: bool = False,
) -> tuple[Sequence[DatasetVersion], int]:
    """Return a page of the newest versions of all datasets, and how many match."""
    newest = (
        select(func.max(DatasetVersion.id).label("id"))
        .where(DatasetVersion.org_id == org_id)
        .group_by(DatasetVersion.name)
        .subquery()
    )
    statement = select(DatasetVersion).join(newest, newest.c.id == DatasetVersion.id)
    if search is not None:
        statement = statement.where(DatasetVersion.name.icontains(search, autoescape=True))
    total = await session.scalar(select(func.count()).select_from(statement.subquery()))
    # Ids grow with time, and no two are alike.
    column = DatasetVersion.name if sort_by == "name" else DatasetVersion.id
    order = column.desc() if descending else column.asc()
    found = await session.scalars(
        statement.order_by(order).offset((page - 1) * page_size).limit(page_size)
    )
    return found.all(), total or 0
