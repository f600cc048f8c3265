"""Datasets as functions of a session: store a version once, find it for ever."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.callers import Caller
from app.datasets.tables import DatasetVersion
from app.errors import Conflict, NotFound
from app.store import Incoming


async def add_version(
    session: AsyncSession, caller: Caller, name: str, version: str, incoming: Incoming, rows: int
) -> tuple[DatasetVersion, bool]:
    """Keep `incoming` as a version, and say whether it is new.

    Raises:
        Conflict: the version exists with other bytes; a version never changes.
    """
    held = await _find(session, caller.org_id, name, version)
    if held is not None:
        if held.sha256 != incoming.sha256:
            raise Conflict(
                f"Version `{version}` of `{name}` exists with other rows, and a version never "
                "changes; push under a new version"
            )
        return held, False
    made = DatasetVersion(
        org_id=caller.org_id,
        name=name,
        version=version,
        format="jsonl",
        rows=rows,
        bytes=incoming.bytes,
        sha256=incoming.sha256,
        created_by=caller.user_id,
    )
    try:
        async with session.begin_nested():
            session.add(made)
    except IntegrityError:
        # Another upload of the same version was faster; now it can be found.
        return await add_version(session, caller, name, version, incoming, rows)
    # Before the row can be seen, so that no row ever names bytes that are not there.
    incoming.keep()
    return made, True


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
    session: AsyncSession, org_id: str, page: int, page_size: int
) -> tuple[Sequence[DatasetVersion], int]:
    """Return a page of the newest versions of all datasets, by name, and how many there are."""
    newest = (
        select(func.max(DatasetVersion.id).label("id"))
        .where(DatasetVersion.org_id == org_id)
        .group_by(DatasetVersion.name)
        .subquery()
    )
    total = await session.scalar(select(func.count()).select_from(newest))
    found = await session.scalars(
        select(DatasetVersion)
        .join(newest, newest.c.id == DatasetVersion.id)
        .order_by(DatasetVersion.name)
        .offset((page - 1) * page_size)
        .limit(page_size)
    )
    return found.all(), total or 0
