"""The members of an organization and its workspaces, as functions of a session."""

from collections.abc import Sequence

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller, Role
from dreadnode_api.auth.schemas import MemberRequest, WorkspaceRequest
from dreadnode_api.auth.service import expiry, new_token
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.auth import Membership, Organization, Token, User, Workspace
from dreadnode_api.models.base import now

RESERVED = frozenset({"org", "user", "training", "docs"})
"""Slugs that an organization cannot have, because paths begin with these words."""


async def create_first(session: AsyncSession) -> str | None:
    """Create organization `main` with an administrator, and return the token of that one.

    Returns:
        The token, which is stored nowhere, or None when an organization exists already.
    """
    if await session.scalar(select(Organization.id).limit(1)) is not None:
        return None
    _, secret = await create_organization(session, "main", "Main", "admin", "admin@localhost")
    return secret


async def create_organization(
    session: AsyncSession, slug: str, name: str, username: str, email: str
) -> tuple[Organization, str]:
    """Create an organization, its default workspace and an administrator; return it and a token.

    Only the server's operator can do this, on the server's machine: over HTTP, anybody could find
    out by trying which organizations exist.

    Raises:
        Conflict: the slug is taken or reserved, or the name or address is another user's.
    """
    existing = await session.scalar(select(Organization.id).where(Organization.slug == slug))
    if existing is not None or slug in RESERVED:
        raise Conflict(f"The slug `{slug}` is taken; choose another")
    organization = Organization(slug=slug, name=name)
    session.add(organization)
    await session.flush()
    session.add(Workspace(org_id=organization.id, slug="default", name="Default", is_default=True))
    user = await _user(session, username, email, None)
    session.add(Membership(user_id=user.id, org_id=organization.id, role=Role.ADMIN.word))
    secret, token = new_token(organization.id, "first token", user_id=user.id, role=Role.ADMIN)
    session.add(token)
    await session.flush()
    return organization, secret


async def create_workspace(
    session: AsyncSession, caller: Caller, request: WorkspaceRequest
) -> Workspace:
    """Create a workspace.

    Raises:
        Conflict: the organization has a workspace with this slug.
    """
    workspace = Workspace(org_id=caller.org_id, slug=request.key, name=request.name or request.key)
    try:
        async with session.begin_nested():
            session.add(workspace)
    except IntegrityError:
        raise Conflict(f"This organization already has a workspace `{request.key}`") from None
    return workspace


async def list_workspaces(session: AsyncSession, org_id: str) -> Sequence[Workspace]:
    """Return the workspaces of an organization, the default one first."""
    found = await session.scalars(
        select(Workspace)
        .where(Workspace.org_id == org_id)
        .order_by(Workspace.is_default.desc(), Workspace.slug)
    )
    return found.all()


async def list_members(session: AsyncSession, org_id: str) -> Sequence[tuple[User, Membership]]:
    """Return the members of an organization, by name."""
    found = await session.execute(
        select(User, Membership)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.org_id == org_id)
        .order_by(User.username)
    )
    return [(user, membership) for user, membership in found]


async def add_member(
    session: AsyncSession, caller: Caller, request: MemberRequest
) -> tuple[User, Membership, str, Token]:
    """Add a member, with a first token for them; an unknown user is created.

    Raises:
        Conflict: they are a member already, or the name or the address is another user's.
    """
    user = await _user(session, request.username, request.email, request.full_name)
    if await session.get(Membership, (user.id, caller.org_id)) is not None:
        raise Conflict(f"`{request.username}` is already a member of this organization")
    role = Role[request.role.upper()]
    member = Membership(user_id=user.id, org_id=caller.org_id, role=role.word)
    expires_at = await expiry(session, caller, request.expires_in_days)
    secret, token = new_token(
        caller.org_id, "first token", user_id=user.id, role=role, expires_at=expires_at
    )
    session.add_all([member, token])
    await session.flush()
    return user, member, secret, token


async def _user(session: AsyncSession, username: str, email: str, full_name: str | None) -> User:
    found = await session.scalar(
        select(User).where(or_(User.username == username, User.email == email)).limit(1)
    )
    if found is None:
        found = User(username=username, email=email, full_name=full_name)
        try:
            async with session.begin_nested():
                session.add(found)
        except IntegrityError:
            raise _taken(username, email) from None
    if (found.username, found.email) != (username, email):
        raise _taken(username, email)
    return found


def _taken(username: str, email: str) -> Conflict:
    return Conflict(f"The name `{username}` or the address `{email}` belongs to another user")


async def set_role(
    session: AsyncSession, org_id: str, user_id: str, role: Role
) -> tuple[User, Membership]:
    """Change the role of a member; it limits their tokens within a second.

    Raises:
        Conflict: it would leave the organization without an administrator.
        NotFound: the organization has no such member.
    """
    user, member = await _member(session, org_id, user_id)
    if role < Role.ADMIN:
        await _keep_an_admin(session, member)
    member.role = role.word
    return user, member


async def remove_member(
    session: AsyncSession, org_id: str, user_id: str
) -> tuple[User, Membership]:
    """Remove a member from an organization, and revoke their tokens for it.

    Raises:
        Conflict: it is the last administrator.
        NotFound: the organization has no such member.
    """
    user, member = await _member(session, org_id, user_id)
    await _keep_an_admin(session, member)
    await session.execute(
        update(Token)
        .where(Token.org_id == org_id, Token.user_id == user.id, Token.revoked_at.is_(None))
        .values(revoked_at=now())
    )
    await session.delete(member)
    return user, member


async def _member(session: AsyncSession, org_id: str, user_id: str) -> tuple[User, Membership]:
    # All administrators are locked in the same order, so that two cannot remove each other.
    await session.execute(
        select(Membership)
        .where(Membership.org_id == org_id, Membership.role == Role.ADMIN.word)
        .order_by(Membership.user_id)
        .with_for_update()
    )
    row = (
        await session.execute(
            select(User, Membership)
            .join(Membership, Membership.user_id == User.id)
            .where(Membership.org_id == org_id, or_(User.id == user_id, User.username == user_id))
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"This organization has no member `{user_id}`")
    return row[0], row[1]


async def _keep_an_admin(session: AsyncSession, leaving: Membership) -> None:
    others = await session.scalar(
        select(func.count())
        .select_from(Membership)
        .where(
            Membership.org_id == leaving.org_id,
            Membership.role == Role.ADMIN.word,
            Membership.user_id != leaving.user_id,
        )
    )
    if leaving.role == Role.ADMIN.word and not others:
        raise Conflict("This is the last administrator; give another member that role first")
