"""Queries for what has a name and immutable versions: datasets and capabilities."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.capabilities import CapabilityVersion
from dreadnode_api.models.datasets import DatasetVersion

Version = TypeVar("Version", DatasetVersion, CapabilityVersion)

_SEARCHED: dict[Any, Sequence[Any]] = {
    DatasetVersion: [DatasetVersion.name],
    CapabilityVersion: [CapabilityVersion.name, CapabilityVersion.description],
}


async def find_version(
    session: AsyncSession, table: type[Version], org_id: str, name: str, version: str
) -> Version | None:
    """Return one version, also a deleted one."""
    found: Version | None = await session.scalar(
        select(table).where(table.org_id == org_id, table.name == name, table.version == version)
    )
    return found


async def versions_of(
    session: AsyncSession, table: type[Version], org_id: str, name: str
) -> Sequence[Version]:
    """Return the versions of a name that are not deleted, newest first."""
    found = await session.scalars(
        select(table)
        .where(table.org_id == org_id, table.name == name, table.deleted_at.is_(None))
        .order_by(table.id.desc())
    )
    return found.all()


async def newest_versions(
    session: AsyncSession,
    table: type[Version],
    org_id: str,
    search: str | None,
    page: int,
    limit: int,
    *,
    sort_by: str = "name",
    descending: bool = False,
) -> tuple[Sequence[Version], int]:
    """Return a page of the newest version of each name, and how many names match."""
    newest = (
        select(func.max(table.id).label("id"))
        .where(table.org_id == org_id, table.deleted_at.is_(None))
        .group_by(table.name)
        .subquery()
    )
    statement = select(table).join(newest, newest.c.id == table.id)
    if search is not None:
        columns = _SEARCHED[table]
        statement = statement.where(or_(*(c.icontains(search, autoescape=True) for c in columns)))
    total = await session.scalar(select(func.count()).select_from(statement.subquery()))
    # Ids grow with time and are unique.
    column = table.name if sort_by == "name" else table.id
    order = column.desc() if descending else column.asc()
    found = await session.scalars(statement.order_by(order).offset((page - 1) * limit).limit(limit))
    return found.all(), total or 0
