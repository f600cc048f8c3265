"""Capabilities as functions of a session."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import CursorResult, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import quotas
from dreadnode_api.auth.callers import Caller
from dreadnode_api.capabilities.schemas import CapabilityRequest
from dreadnode_api.errors import Conflict, Invalid, Malformed, NotFound
from dreadnode_api.models.base import now
from dreadnode_api.models.capabilities import CapabilityVersion, RegistryBlob
from dreadnode_api.settings import Settings
from dreadnode_api.versions import find_version, versions_of

RESERVED_VERSIONS = ("latest", "versions", "visibility")
"""Words with another meaning in the place of a version."""
NONE = ("none", "0.0.0")
"""What clients of version 2 send for a job without a capability."""


def from_prompt(
    caller: Caller, name: str, version: str, request: CapabilityRequest
) -> CapabilityVersion:
    """Return a version that is one prompt, not yet stored."""
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
    """Store a version, or restore a deleted one, and return whether it is new.

    Raises:
        Conflict: it exists, or existed, with other content; a version never changes.
        Invalid: its version is a reserved word.
    """
    if made.version in RESERVED_VERSIONS:
        raise Invalid(f"`{made.version}` cannot be a version; use one such as `1.0.0`", "version")
    key = made.org_id, made.name, made.version
    existing = await find_version(session, CapabilityVersion, *key)
    if existing is None:
        try:
            async with session.begin_nested():
                session.add(made)
        except IntegrityError:
            # Another push of the same version was faster.
            existing = await find_version(session, CapabilityVersion, *key)
            if existing is None:
                raise
        else:
            return made, True
    if existing.sha256 != made.sha256:
        what = "existed" if existing.deleted_at else "exists"
        raise Conflict(
            f"Version `{made.version}` of the capability `{made.name}` {what} with other content, "
            "and a version never changes; push a new version"
        )
    if existing.deleted_at is None:
        return existing, False
    existing.deleted_at = None
    existing.manifest_sha256 = made.manifest_sha256
    existing.config_sha256 = made.config_sha256
    return existing, True


async def delete_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion:
    """Delete one version; jobs that use its prompt have a copy in their config.

    Raises:
        NotFound: it does not exist.
    """
    found = await get_version(session, org_id, name, version)
    found.deleted_at = now()
    return found


async def get_version(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion:
    """Return one version.

    Raises:
        NotFound: it does not exist; the message names versions that do.
    """
    found = await find_version(session, CapabilityVersion, org_id, name, version)
    if found is not None and found.deleted_at is None:
        return found
    known = [
        f"`{each.version}`" for each in await versions_of(session, CapabilityVersion, org_id, name)
    ]
    if not known:
        raise _unknown(name)
    newest = ", ".join(known[:3])
    raise NotFound(f"The capability `{name}` has no version `{version}`; its newest are {newest}")


def _unknown(name: str) -> NotFound:
    return NotFound(f"This organization has no capability `{name}`; see `dn capability list`")


async def list_versions(
    session: AsyncSession, org_id: str, name: str
) -> Sequence[CapabilityVersion]:
    """Return all versions of a capability, newest first.

    Raises:
        NotFound: the capability does not exist.
    """
    found = await versions_of(session, CapabilityVersion, org_id, name)
    if not found:
        raise _unknown(name)
    return found


async def for_job(
    session: AsyncSession, org_id: str, name: str, version: str
) -> CapabilityVersion | None:
    """Return the capability that a job names, or None for `none@0.0.0`.

    Raises:
        Invalid: it does not exist, or has no prompt and would have no effect.
    """
    if (name, version) == NONE:
        return None
    try:
        found = await get_version(session, org_id, name, version)
    except NotFound as error:
        raise Invalid(f"{error.detail}, or leave `capability_ref` out", "capability_ref") from None
    if not found.prompt:
        raise Invalid(
            f"The capability `{name}@{version}` has no agent prompt, so it would not affect the "
            "job; add a file in `agents`, or leave `capability_ref` out",
            "capability_ref",
        )
    return found


async def use_blob(session: AsyncSession, org_id: str, sha256: str) -> RegistryBlob:
    """Return the row of a blob that this organization has sent, marked as used now.

    The mark keeps the cleanup from deleting a blob that a push is about to refer to. It is a write,
    so in the transaction that refers to the blob, the blob either exists or is missing for certain.

    Raises:
        NotFound: the organization has not sent it.
    """
    marked = await session.execute(
        update(RegistryBlob)
        .where(RegistryBlob.org_id == org_id, RegistryBlob.sha256 == sha256)
        .values(used_at=now())
    )
    if isinstance(marked, CursorResult) and marked.rowcount == 0:
        raise NotFound(f"This organization has no blob `sha256:{sha256}`")
    return await session.get_one(RegistryBlob, (org_id, sha256))


async def add_blob(
    session: AsyncSession, settings: Settings, org_id: str, sha256: str, size: int
) -> None:
    """Record that an organization has sent a blob, for the first time or again."""
    try:
        await use_blob(session, org_id, sha256)
    except NotFound:
        await quotas.require(session, settings, org_id, "blobs")
        await quotas.require(session, settings, org_id, "stored_bytes", size)
        try:
            async with session.begin_nested():
                session.add(RegistryBlob(org_id=org_id, sha256=sha256, bytes=size))
        except IntegrityError:
            # Another push of the same bytes was faster.
            await use_blob(session, org_id, sha256)


async def use_sent(session: AsyncSession, org_id: str, sha256: str, size: int) -> None:
    """Mark a blob that a manifest refers to as used now.

    Raises:
        Malformed: it was not sent, or has another size.
    """
    try:
        row = await use_blob(session, org_id, sha256)
    except NotFound:
        raise Malformed(
            f"The manifest refers to the blob `sha256:{sha256}`, which was not sent; send it first"
        ) from None
    if row.bytes != size:
        raise Malformed(f"The blob `sha256:{sha256}` has {row.bytes:,} bytes, not {size:,}")


def details_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a capability's config that is stored."""
    return {key: config[key] for key in ("agents", "tools", "skills") if config.get(key)}
