"""From the token or browser session of a request to its `Caller`, cached for under a second."""

import asyncio
import base64
import hmac
import time
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import select
from starlette.datastructures import Headers

from dreadnode_api.auth import signed, tokens
from dreadnode_api.db import Database
from dreadnode_api.errors import Forbidden, Unauthenticated
from dreadnode_api.models.auth import BrowserSession, Membership, Organization, Token, User
from dreadnode_api.models.base import now
from dreadnode_api.models.jobs import ENDED, Job

# A cached caller is looked up again in the background after the first time and is not used after
# the second, so a revoked token fails within a second in every process.
REFRESH_SECONDS = 0.4
STALE_SECONDS = 0.9
CACHE_ENTRIES = 4096
SESSION = "session "
"""What the cache puts before the hash of a browser session, to tell it from that of a token."""


class Role(IntEnum):
    """What a user may do, each role including the one before: read; create; manage people."""

    READER = 1
    MEMBER = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The name that requests, responses and errors use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid token.

    A user's token has a `role` in one organization. A sandbox's token has `job_id` and `attempt`
    instead; when its job has `ended`, the token gives access to nothing.
    """

    token_id: str
    org_id: str
    org_slug: str
    role: Role | None = None
    user_id: str | None = None
    username: str | None = None
    email: str | None = None
    full_name: str | None = None
    job_id: str | None = None
    attempt: int | None = None
    workspace_id: str | None = None
    ended: bool = False


def need(caller: Caller, role: Role) -> None:
    """Return if CALLER has at least ROLE.

    Raises:
        Forbidden: it has a lesser role, or is a sandbox.
    """
    if caller.role is None:
        raise Forbidden("The token of a job gives access to that job only")
    if caller.role < role:
        raise Forbidden(
            f"This needs the role `{role.word}`, and this API token has `{caller.role.word}`; "
            "ask an administrator of the organization"
        )


class Authenticator:
    """Finds the caller of a token; refuses every other token with the same error."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, Caller]] = {}
        self._lookups: dict[str, asyncio.Task[Caller]] = {}

    async def caller(self, headers: Headers) -> Caller:
        """Return the caller of a request with these headers.

        Raises:
            Unauthenticated: the token is missing, unknown, revoked or expired.
        """
        return await self.holder(token_of(headers))

    async def holder(self, token: str) -> Caller:
        """Return the caller whose token this is.

        Raises:
            Unauthenticated: the token is unknown, revoked or expired.
        """
        return await self._cached(tokens.sha256(token))

    async def visitor(self, secret: str) -> Caller:
        """Return the caller who signed in to the console and whose cookie holds SECRET.

        Raises:
            Unauthenticated: there is no session, it is over, or its token is revoked or expired.
        """
        if not secret:
            raise Unauthenticated("You are not signed in; sign in with an API token")
        try:
            return await self._cached(session_key(secret))
        except Unauthenticated:
            raise Unauthenticated(
                "You are not signed in any more: the session or its API token has expired or was "
                "revoked. Sign in again"
            ) from None

    async def _cached(self, digest: str) -> Caller:
        cached = self._cache.get(digest)
        age = STALE_SECONDS if cached is None else time.monotonic() - cached[0]
        if cached is not None and age < REFRESH_SECONDS:
            return cached[1]
        # One lookup serves all requests that wait for it. It is a task of its own, so that it
        # survives the request that happened to start it.
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest))
            lookup.add_done_callback(lambda task: self._looked_up(digest, task))
        if cached is not None and age < STALE_SECONDS:
            return cached[1]
        return await asyncio.shield(lookup)

    def knows(self, digest: str) -> bool:
        """Return whether the token of this hash was valid lately."""
        return digest in self._cache

    def drop(self, digest: str) -> None:
        """Look the token or session of this hash up again at its next request."""
        self._cache.pop(digest, None)

    async def close(self) -> None:
        """Cancel the lookups under way; the database may be closed after this."""
        lookups = list(self._lookups.values())
        for task in lookups:
            task.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def signer(self, signature: signed.Signature, path: str) -> Caller:
        """Return the caller whose token signed a URL of PATH.

        Raises:
            Unauthenticated: the signature is wrong or expired, or its token is not valid.
        """
        async with self._database.reading() as session:
            digest = await session.scalar(
                select(Token.sha256).where(Token.id == signature.token_id)
            )
        if digest is None or not signed.is_valid(signature, path, digest):
            raise Unauthenticated("This URL is not valid or has expired; request a new one")
        return await self._look_up(digest)

    async def _look_up(self, digest: str) -> Caller:
        asked_at = time.monotonic()
        try:
            caller = await self._read(digest)
        except Unauthenticated:
            self._cache.pop(digest, None)
            raise
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[digest] = (asked_at, caller)
        return caller

    def _looked_up(self, digest: str, task: asyncio.Task[Caller]) -> None:
        del self._lookups[digest]
        if not task.cancelled():
            task.exception()  # Retrieved, or asyncio would log it; the waiting requests raise it.

    async def _read(self, digest: str) -> Caller:
        statement = (
            select(Token, Organization, User, Membership, Job.status, Job.workspace_id)
            .join(Organization, Organization.id == Token.org_id)
            .outerjoin(User, User.id == Token.user_id)
            .outerjoin(
                Membership,
                (Membership.user_id == Token.user_id) & (Membership.org_id == Token.org_id),
            )
            .outerjoin(Job, Job.id == Token.job_id)
        )
        if digest.startswith(SESSION):
            statement = statement.join(BrowserSession, BrowserSession.token_id == Token.id).where(
                BrowserSession.sha256 == digest.removeprefix(SESSION),
                BrowserSession.expires_at > now(),
            )
        else:
            statement = statement.where(Token.sha256 == digest)
        async with self._database.reading() as session:
            row = (await session.execute(statement)).one_or_none()
        # The lookup is by the hash of 256 random bits, so its time reveals nothing about a token;
        # the comparison takes constant time.
        is_session = digest.startswith(SESSION)
        is_found = row is not None and (is_session or hmac.compare_digest(row[0].sha256, digest))
        if row is None or not is_found or not _is_valid(row[0]):
            raise Unauthenticated(
                "The API token is not valid; it may be mistyped, revoked or expired"
            )
        token, organization, user, membership, status, workspace_id = row
        if token.job_id is not None:
            return Caller(
                token_id=token.id,
                org_id=organization.id,
                org_slug=organization.slug,
                job_id=token.job_id,
                attempt=token.attempt,
                workspace_id=workspace_id,
                ended=status in ENDED,
            )
        if membership is None or user is None or token.role is None:
            raise Unauthenticated("The owner of this API token has left the organization")
        return Caller(
            token_id=token.id,
            org_id=organization.id,
            org_slug=organization.slug,
            role=min(Role[token.role.upper()], Role[membership.role.upper()]),
            user_id=user.id,
            username=user.username,
            email=user.email,
            full_name=user.full_name,
        )


def session_key(secret: str) -> str:
    """Return by what the cache knows the browser session whose cookie holds SECRET."""
    return SESSION + tokens.sha256(secret)


def _is_valid(token: Token) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now())


def token_of(headers: Headers) -> str:
    """Return the token of a request, from either of the two accepted headers.

    Clients of version 2 push with HTTP Basic: the user is `__token__`, the password the token.

    Raises:
        Unauthenticated: the request has no token.
    """
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic" and (password := _basic_password(credentials)):
        return password
    token = headers.get("x-api-key", "").strip()
    if not token:
        raise Unauthenticated(
            "An API token is required; send it as `Authorization: Bearer TOKEN` or "
            "`X-API-Key: TOKEN`"
        )
    return token


def _basic_password(credentials: str) -> str:
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return ""
    return password if user == "__token__" else ""
