"""The members of an organization and its workspaces, as functions of a session."""

from collections.abc import Sequence

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller, Role
from dreadnode_api.auth.schemas import MemberRequest, WorkspaceRequest
from dreadnode_api.auth.service import end_of_key, new_token
from dreadnode_api.db import now
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.auth import Membership, Organization, Token, User, Workspace

RESERVED = frozenset({"org", "user", "training", "docs"})
"""Keys that an organization cannot have, since paths begin with these words."""


async def create_organization(
    session: AsyncSession, key: str, name: str, username: str, email: str
) -> tuple[Organization, str]:
    """Make an organization with a default workspace and an administrator; return it and a key.

    Only whoever runs the server does this, beside it and not over HTTP: so nobody can find out
    by trying which organizations there are.

    Raises:
        Conflict: the key is taken or reserved, or the user is another one.
    """
    held = await session.scalar(select(Organization.id).where(Organization.key == key))
    if held is not None or key in RESERVED:
        raise Conflict(f"The key `{key}` is taken; choose another")
    organization = Organization(key=key, name=name)
    session.add(organization)
    await session.flush()
    session.add(Workspace(org_id=organization.id, key="default", name="Default", is_default=True))
    user = await _user(session, username, email, None)
    session.add(Membership(user_id=user.id, org_id=organization.id, role=Role.ADMIN.word))
    secret, token = new_token(organization.id, "first key", user_id=user.id, role=Role.ADMIN)
    session.add(token)
    await session.flush()
    return organization, secret


async def create_workspace(
    session: AsyncSession, caller: Caller, request: WorkspaceRequest
) -> Workspace:
    """Make a workspace.

    Raises:
        Conflict: there is one of this key in the organization.
    """
    made = Workspace(org_id=caller.org_id, key=request.key, name=request.name or request.key)
    try:
        async with session.begin_nested():
            session.add(made)
    except IntegrityError:
        raise Conflict(f"There is a workspace `{request.key}` in this organization") from None
    return made


async def list_members(session: AsyncSession, org_id: str) -> Sequence[tuple[User, Membership]]:
    """Return who belongs to an organization, by name."""
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
    """Make a user a member, and a first key for them; a new user is made if need be.

    Raises:
        Conflict: they are a member, or the name or the address is somebody else's.
    """
    user = await _user(session, request.username, request.email, request.full_name)
    if await session.get(Membership, (user.id, caller.org_id)) is not None:
        raise Conflict(f"`{request.username}` is a member of this organization")
    role = Role[request.role.upper()]
    member = Membership(user_id=user.id, org_id=caller.org_id, role=role.word)
    until = await end_of_key(session, caller, request.expires_in_days)
    key, token = new_token(caller.org_id, "first key", user_id=user.id, role=role, expires_at=until)
    session.add_all([member, token])
    await session.flush()
    return user, member, key, token


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
    return Conflict(f"The name `{username}` or the address `{email}` is somebody else's")


async def set_role(
    session: AsyncSession, org_id: str, user_id: str, role: Role
) -> tuple[User, Membership]:
    """Give a member another role; what their keys may do shrinks with it, within a second.

    Raises:
        Conflict: the last administrator would be none any more.
        NotFound: there is no such member.
    """
    user, member = await _member(session, org_id, user_id)
    if role < Role.ADMIN:
        await _keep_an_admin(session, member)
    member.role = role.word
    return user, member


async def remove_member(
    session: AsyncSession, org_id: str, user_id: str
) -> tuple[User, Membership]:
    """Take a member out of an organization, and revoke their keys to it.

    Raises:
        Conflict: it is the last administrator.
        NotFound: there is no such member.
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
    # All administrators are locked in one order, so that no two can remove each other at once.
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
        raise NotFound(f"There is no member `{user_id}` in this organization")
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
        raise Conflict("An organization needs an administrator; make somebody else one first")
