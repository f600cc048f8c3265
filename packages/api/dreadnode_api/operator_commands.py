"""Commands for the operator, on the server's machine: organizations, tokens, quotas and disk.

They are not available over HTTP: a user who can run them can read the database anyway.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import migrations, quotas
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.people import create_organization
from dreadnode_api.auth.service import new_token
from dreadnode_api.db import Database
from dreadnode_api.errors import NotFound
from dreadnode_api.http.patterns import EMAIL, NEW_SLUG, ORGANIZATION_NAME, USERNAME, explain
from dreadnode_api.maintenance.disk import disk_usage
from dreadnode_api.models.auth import Membership, Organization, User
from dreadnode_api.settings import Settings, SettingsError


def add_parsers(commands: Any) -> None:
    """Add the commands to the argument parser."""
    organization = commands.add_parser("organization", help="create an organization")
    organization.add_argument("slug", help="lower-case letters, digits and hyphens")
    organization.add_argument("--name", help="for people; the slug if not given")
    organization.add_argument("--username", required=True, help="its first administrator")
    organization.add_argument("--email", required=True)
    token = commands.add_parser("token", help="create a token for a member of an organization")
    token.add_argument("organization", help="the slug of the organization")
    token.add_argument("username", help="the member, whose role the token gets")
    quota = commands.add_parser("quota", help="show or set the quotas of an organization")
    quota.add_argument("organization", help="the slug of the organization")
    quota.add_argument("resource", nargs="?", choices=quotas.RESOURCES)
    quota.add_argument("limit", nargs="?", help="a whole number, 0 for no limit, or `default`")
    commands.add_parser("disk", help="show what takes the space of the data directory")


async def run(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    """Run the command that was GIVEN and return what it prints.

    Raises:
        SettingsError: an argument is not valid.
        ApiError: the command is refused.
    """
    commands: dict[str, Callable[..., Any]] = {
        "organization": _organization,
        "token": _token,
        "quota": _quota,
        "disk": _disk,
    }
    database = Database(settings.database_url)
    try:
        await migrations.check(database)
        writes = given.command != "disk"
        async with database.writing() if writes else database.reading() as session:
            result: dict[str, Any] = await commands[given.command](session, settings, given)
    finally:
        await database.dispose()
    return result


async def _organization(
    session: AsyncSession, settings: Settings, given: argparse.Namespace
) -> dict[str, Any]:
    for value, pattern in (
        (given.slug, NEW_SLUG),
        (given.username, USERNAME),
        (given.email, EMAIL),
        (given.name or given.slug, ORGANIZATION_NAME),
    ):
        if not re.fullmatch(pattern, value) or value.endswith("\n"):
            raise SettingsError(f"`{value}` is not valid: {explain(pattern)}")
    made, secret = await create_organization(
        session, given.slug, given.name or given.slug, given.username, given.email
    )
    return {"organization": made.slug, "workspace": "default", "token": secret}


async def _token(
    session: AsyncSession, settings: Settings, given: argparse.Namespace
) -> dict[str, Any]:
    organization = await _find_organization(session, given.organization)
    found = (
        await session.execute(
            select(User.id, Membership.role)
            .join(Membership, Membership.user_id == User.id)
            .where(
                Membership.org_id == organization.id,
                or_(User.username == given.username, User.email == given.username),
            )
        )
    ).one_or_none()
    if found is None:
        raise NotFound(f"The organization `{organization.slug}` has no member `{given.username}`")
    user_id, role = found
    secret, token = new_token(
        organization.id, "created on the server", user_id=user_id, role=Role[role.upper()]
    )
    session.add(token)
    return {"organization": organization.slug, "role": role, "token": secret}


async def _quota(
    session: AsyncSession, settings: Settings, given: argparse.Namespace
) -> dict[str, Any]:
    organization = await _find_organization(session, given.organization)
    if given.resource is not None:
        if given.limit is None:
            raise SettingsError(f"Name the limit of `{given.resource}`, or `default`")
        if given.limit != "default" and not re.fullmatch(r"[0-9]{1,18}", given.limit):
            raise SettingsError(f"`{given.limit}` is not valid: give a whole number or `default`")
        limit = None if given.limit == "default" else int(given.limit)
        await quotas.set_limit(session, organization.id, given.resource, limit)
    found = await quotas.usage(session, settings, organization.id)
    return {
        "organization": organization.slug,
        **{each.resource: {"used": each.used, "limit": each.limit} for each in found},
    }


async def _disk(
    session: AsyncSession, settings: Settings, given: argparse.Namespace
) -> dict[str, Any]:
    return asdict(await disk_usage(session, settings))


async def _find_organization(session: AsyncSession, slug: str) -> Organization:
    found: Organization | None = await session.scalar(
        select(Organization).where(Organization.slug == slug)
    )
    if found is None:
        raise NotFound(f"There is no organization `{slug}`")
    return found
