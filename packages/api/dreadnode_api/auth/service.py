"""Organizations and their tokens, as functions of a session."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth import tokens
from dreadnode_api.auth.callers import Caller, Role, need
from dreadnode_api.auth.schemas import TokenRequest
from dreadnode_api.db import now
from dreadnode_api.errors import Forbidden, NotFound
from dreadnode_api.models.auth import Membership, Organization, Token, User, Workspace


async def create_first(session: AsyncSession) -> str | None:
    """Make organization `main`, its workspace, an administrator and a key; return the key.

    Returns:
        The key, which is kept nowhere, or None when an organization exists already.
    """
    if await session.scalar(select(Organization.id).limit(1)) is not None:
        return None
    organization = Organization(key="main", name="Main")
    user = User(username="admin", email="admin@localhost")
    session.add_all([organization, user])
    await session.flush()
    session.add_all(
        [
            Workspace(org_id=organization.id, key="default", name="Default", is_default=True),
            Membership(user_id=user.id, org_id=organization.id, role=Role.ADMIN.word),
        ]
    )
    key, token = new_token(organization.id, "first start", user_id=user.id, role=Role.ADMIN)
    session.add(token)
    return key


def new_token(
    org_id: str,
    name: str,
    *,
    role: Role | None = None,
    user_id: str | None = None,
    job_id: str | None = None,
    attempt: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, Token]:
    """Return a new key and the row, not yet stored, that keeps its hash."""
    key = tokens.mint(tokens.API_PREFIX if job_id is None else tokens.JOB_PREFIX)
    return key, Token(
        sha256=tokens.sha256(key),
        hint=tokens.hint(key),
        name=name,
        role=role.word if role is not None else None,
        org_id=org_id,
        user_id=user_id,
        job_id=job_id,
        attempt=attempt,
        created_at=now(),
        expires_at=expires_at,
    )


async def end_of_key(session: AsyncSession, caller: Caller, days: float | None) -> datetime | None:
    """Return when a key that CALLER makes expires, None for never: at the latest with its own.

    So a stolen key that ends cannot be made into one that lasts.

    Raises:
        Forbidden: it would outlive the key that the caller has.
    """
    own = await session.scalar(select(Token.expires_at).where(Token.id == caller.token_id))
    wished = own if days is None else now() + timedelta(days=days)
    if own is not None and wished is not None and wished > own:
        raise Forbidden(
            f"Your key is good until {own:%Y-%m-%d %H:%M} UTC, and a key that it makes no longer; "
            "ask for fewer days, or use a key that lasts"
        )
    return wished


async def create_token(
    session: AsyncSession, caller: Caller, request: TokenRequest
) -> tuple[str, Token]:
    """Store a new key, with at most the role of its owner and of the caller, and return both.

    Raises:
        Forbidden: a greater role is wished for, or a key for somebody else by no administrator.
        NotFound: the organization has no such member.
    """
    owner_id, most = caller.user_id, caller.role or Role.READER
    if request.username not in (None, caller.username):
        need(caller, Role.ADMIN)
        owner = await _find_member(session, caller.org_id, request.username or "")
        owner_id, most = owner.user_id, Role[owner.role.upper()]
    role = most if request.role is None else Role[request.role.upper()]
    need(caller, role)
    if role > most:
        raise Forbidden(
            f"`{request.username}` has the role `{most.word}`, and a key has at most its owner's"
        )
    key, token = new_token(
        caller.org_id,
        request.name,
        role=role,
        user_id=owner_id,
        expires_at=await end_of_key(session, caller, request.expires_in_days),
    )
    session.add(token)
    await session.flush()
    return key, token


async def _find_member(session: AsyncSession, org_id: str, username: str) -> Membership:
    found: Membership | None = await session.scalar(
        select(Membership)
        .join(User, User.id == Membership.user_id)
        .where(Membership.org_id == org_id, User.username == username)
    )
    if found is None:
        raise NotFound(f"There is no member `{username}` in this organization")
    return found


async def list_tokens(session: AsyncSession, caller: Caller) -> Sequence[tuple[Token, str]]:
    """Return keys with their owners' names, newest first: all for an admin, else one's own."""
    found = await session.execute(_seen_by(caller).order_by(Token.id.desc()))
    return [(token, username) for token, username in found]


async def revoke_token(session: AsyncSession, caller: Caller, token_id: str) -> tuple[Token, str]:
    """Revoke a key and return it with its owner's name; once revoked it stays as it is.

    Raises:
        NotFound: there is no such key, or it is another's and the caller no administrator.
    """
    found = (await session.execute(_seen_by(caller).where(Token.id == token_id))).one_or_none()
    if found is None:
        raise NotFound(f"There is no API key with the id `{token_id}` that you may revoke")
    token, username = found
    token.revoked_at = token.revoked_at or now()
    return token, username


def _seen_by(caller: Caller) -> Select[Token, str]:
    """Select the keys that a caller may see, with their owners' names."""
    statement = (
        select(Token, User.username)
        .join(User, User.id == Token.user_id)
        .where(Token.org_id == caller.org_id)
    )
    if caller.role != Role.ADMIN:
        statement = statement.where(Token.user_id == caller.user_id)
    return statement
