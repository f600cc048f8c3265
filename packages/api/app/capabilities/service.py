"""Capabilities as functions of a session: store a version once, find it for ever."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.callers import Caller
from app.capabilities.schemas import CapabilityRequest
from app.capabilities.tables import CapabilityVersion, RegistryBlob
from app.errors import Conflict, Invalid, NotFound

NO_VERSIONS = ("latest", "versions")
"""Words that would be mistaken for something else where a version stands."""
NONE = ("none", "0.0.0")
"""What an old client names when its job has no capability."""


def from_prompt(
    caller: Caller, name: str, version: str, request: CapabilityRequest
) -> CapabilityVersion:
    """Return a version, not yet stored, that is one prompt."""
    content = json.dumps([request.prompt, request.description], ensure_ascii=False)
    return CapabilityVersion(
        org_id=caller.org_id,
        name=name,
        version=version,
        description=request.description,
        prompt=request.prompt,
        entry_agent=None,
        details={},
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        created_by=caller.user_id,
    )


async def add_version(
    session: AsyncSession, made: CapabilityVersion
) -> tuple[CapabilityVersion, bool]:
    """Store a version, and say whether it is new.

    Raises:
        Conflict: it exists with other content; a version never changes.
        Invalid: its version is a word that means something else.
    """
    if made.version in NO_VERSIONS:
        raise Invalid(f"`{made.version}` is no version; name one such as `1.0.0`", "version")
    held = await _find(session, made.org_id, made.name, made.version)
    if held is None:
        try:
            async with session.begin_nested():
                session.add(made)
        except IntegrityError:
            # Another push of the same version was faster between our look and our write.
            held = await _find(session, made.org_id, made.name, made.version)
            if held is None:
                raise
        else:
            return made, True
    if held.sha256 != made.sha256:
        raise Conflict(
            f"Version `{made.version}` of the capability `{made.name}` exists with other content, "
            "and a version never changes; push under a new version"
        )
    return held, False


async def _find(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion | None:
    found: CapabilityVersion | None = await session.scalar(
        select(CapabilityVersion).where(
            CapabilityVersion.org_id == org_id,
            CapabilityVersion.name == name,
            CapabilityVersion.version == version,
        )
    )
    return found


async def get_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion:
    """Return one version.

    Raises:
        NotFound: it does not exist; the sentence names versions that do.
    """
    found = await _find(session, org_id, name, version)
    if found is not None:
        return found
    known = [f"`{each.version}`" for each in await _versions(session, org_id, name)]
    if not known:
        raise _unknown(name)
    newest = ", ".join(known[:3])
    raise NotFound(f"The capability `{name}` has no version `{version}`; its newest are {newest}")


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"There is no capability `{name}` in this organization; see `dn capability list`"
    )


async def list_versions(
    session: AsyncSession, org_id: str, name: str
) -> Sequence[CapabilityVersion]:
    """Return all versions of a capability, newest first.

    Raises:
        NotFound: there is none.
    """
    found = await _versions(session, org_id, name)
    if not found:
        raise _unknown(name)
    return found


async def _versions(session: AsyncSession, org_id: str, name: str) -> Sequence[CapabilityVersion]:
    found = await session.scalars(
        select(CapabilityVersion)
        .where(CapabilityVersion.org_id == org_id, CapabilityVersion.name == name)
        .order_by(CapabilityVersion.id.desc())
    )
    return found.all()


async def list_capabilities(
    session: AsyncSession, org_id: str, search: str | None, page: int, limit: int
) -> tuple[Sequence[CapabilityVersion], int]:
    """Return a page of the newest versions of all capabilities, by name, and how many match."""
    newest = (
        select(func.max(CapabilityVersion.id).label("id"))
        .where(CapabilityVersion.org_id == org_id)
        .group_by(CapabilityVersion.name)
        .subquery()
    )
    statement = select(CapabilityVersion).join(newest, newest.c.id == CapabilityVersion.id)
    if search is not None:
        statement = statement.where(
            CapabilityVersion.name.icontains(search, autoescape=True)
            | CapabilityVersion.description.icontains(search, autoescape=True)
        )
    total = await session.scalar(select(func.count()).select_from(statement.subquery()))
    found = await session.scalars(
        statement.order_by(CapabilityVersion.name).offset((page - 1) * limit).limit(limit)
    )
    return found.all(), total or 0


async def for_job(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion | None:
    """Return the capability that a job names, with a prompt in it, or None for `none@0.0.0`.

    Raises:
        Invalid: it does not exist, or holds no prompt and would have no effect.
    """
    if (name, version) == NONE:
        return None
    try:
        found = await get_version(session, org_id, name, version)
    except NotFound as error:
        raise Invalid(f"{error.detail}, or leave `capability_ref` out", "capability_ref") from None
    if not found.prompt:
        raise Invalid(
            f"The capability `{name}@{version}` holds no agent prompt, so a job would not change "
            "by it; give it a file in `agents`, or leave `capability_ref` out",
            "capability_ref",
        )
    return found


async def find_blob(session: AsyncSession, org_id: str, sha256: str) -> RegistryBlob:
    """Return the row of a blob that this organization has sent.

    Raises:
        NotFound: it has not.
    """
    found = await session.get(RegistryBlob, (org_id, sha256))
    if found is None:
        raise NotFound(f"There is no blob `sha256:{sha256}` in this organization")
    return found


def details_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of the config that a capability's archive comes with."""
    return {key: config[key] for key in ("agents", "tools", "skills") if config.get(key)}
