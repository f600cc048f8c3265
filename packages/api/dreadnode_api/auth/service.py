"""The tokens of organizations, as functions of a session."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth import tokens
from dreadnode_api.auth.callers import Caller, Role, need
from dreadnode_api.auth.schemas import TokenRequest
from dreadnode_api.errors import Forbidden, NotFound
from dreadnode_api.models.auth import Membership, Token, User
from dreadnode_api.models.base import now


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
    """Return a new token and the row, not yet stored, that holds its hash."""
    secret = tokens.generate(tokens.API_PREFIX if job_id is None else tokens.JOB_PREFIX)
    return secret, Token(
        sha256=tokens.sha256(secret),
        hint=tokens.hint(secret),
        name=name,
        role=role.word if role is not None else None,
        org_id=org_id,
        user_id=user_id,
        job_id=job_id,
        attempt=attempt,
        created_at=now(),
        expires_at=expires_at,
    )


async def expiry(session: AsyncSession, caller: Caller, days: float | None) -> datetime | None:
    """Return when a token that CALLER creates expires, None for never: never after its own.

    So a stolen token that expires cannot create one that lasts.

    Raises:
        Forbidden: the new token would outlive the caller's own.
    """
    own = await session.scalar(select(Token.expires_at).where(Token.id == caller.token_id))
    requested = own if days is None else now() + timedelta(days=days)
    if own is not None and requested is not None and requested > own:
        raise Forbidden(
            f"Your token expires at {own:%Y-%m-%d %H:%M} UTC, and a token that it creates cannot "
            "expire later; request fewer days, or use a token that lasts longer"
        )
    return requested


async def create_token(
    session: AsyncSession, caller: Caller, request: TokenRequest
) -> tuple[str, Token]:
    """Store a new token with at most the role of its owner and of the caller; return both.

    Raises:
        Forbidden: the role is greater than that, or the owner is somebody else and the caller is
            not an administrator.
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
            f"`{request.username}` has the role `{most.word}`, and a token has at most the role "
            "of its owner"
        )
    secret, token = new_token(
        caller.org_id,
        request.name,
        role=role,
        user_id=owner_id,
        expires_at=await expiry(session, caller, request.expires_in_days),
    )
    session.add(token)
    await session.flush()
    return secret, token


async def _find_member(session: AsyncSession, org_id: str, username: str) -> Membership:
    found: Membership | None = await session.scalar(
        select(Membership)
        .join(User, User.id == Membership.user_id)
        .where(Membership.org_id == org_id, User.username == username)
    )
    if found is None:
        raise NotFound(f"This organization has no member `{username}`")
    return found


async def list_tokens(session: AsyncSession, caller: Caller) -> Sequence[tuple[Token, str]]:
    """Return the tokens that CALLER may see with their owners' names, newest first."""
    found = await session.execute(_visible_to(caller).order_by(Token.id.desc()))
    return [(token, username) for token, username in found]


async def revoke_token(session: AsyncSession, caller: Caller, token_id: str) -> tuple[Token, str]:
    """Revoke a token and return it with its owner's name; a revoked token stays as it is.

    Raises:
        NotFound: the caller may not see a token with this id.
    """
    found = (await session.execute(_visible_to(caller).where(Token.id == token_id))).one_or_none()
    if found is None:
        raise NotFound(
            f"You have no API token with the id `{token_id}` to revoke; see `dn token list`"
        )
    token, username = found
    token.revoked_at = token.revoked_at or now()
    return token, username


def _visible_to(caller: Caller) -> Select[Token, str]:
    """Select the tokens that CALLER may see and revoke, with their owners' names.

    An administrator's token sees all. Another one sees its owner's, of at most its own role:
    otherwise a reader's token could revoke the admin token of the same person.
    """
    statement = (
        select(Token, User.username)
        .join(User, User.id == Token.user_id)
        .where(Token.org_id == caller.org_id)
    )
    if caller.role != Role.ADMIN:
        roles = [role.word for role in Role if caller.role is not None and role <= caller.role]
        statement = statement.where(Token.user_id == caller.user_id, Token.role.in_(roles))
    return statement
