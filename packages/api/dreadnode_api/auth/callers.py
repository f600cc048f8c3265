"""Who asks: from a request's key to a `Caller`, with a cache of under a second."""

import asyncio
import base64
import hmac
import time
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import select
from starlette.datastructures import Headers

from dreadnode_api.auth import signed, tokens
from dreadnode_api.db import Database, now
from dreadnode_api.errors import Forbidden, Unauthenticated
from dreadnode_api.models.auth import Membership, Organization, Token, User
from dreadnode_api.models.jobs import ENDED, Job

# What is known of a key is asked anew after the first time, while requests go on with it, and is
# not used any more after the second: a revoked key fails within a second in every process.
CACHE_SECONDS = 0.4
STALE_SECONDS = 0.9
CACHE_ENTRIES = 4096


class Role(IntEnum):
    """What one may do, each including the one before: read; make jobs and data; manage people."""

    READER = 1
    MEMBER = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The name that requests, answers and sentences use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid key.

    A user's key has a `role` in one organization. A sandbox's key has `job_id` and `attempt`
    instead; `ended` says that the job has ended, and it opens nothing any more then.
    """

    token_id: str
    org_id: str
    org_key: str
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
    """Return if `caller` has at least `role`.

    Raises:
        Forbidden: it has a smaller one, or is a sandbox.
    """
    if caller.role is None:
        raise Forbidden("The key of a job opens that one job and nothing else")
    if caller.role < role:
        raise Forbidden(
            f"This needs the role `{role.word}`, and this API key has `{caller.role.word}`; "
            "ask an administrator of the organization"
        )


class Authenticator:
    """Turns keys into callers; refuses all others in one and the same way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, tuple[float, Caller]] = {}
        self._asking: dict[str, asyncio.Task[Caller]] = {}

    async def caller(self, headers: Headers) -> Caller:
        """Return who sent `headers`.

        Raises:
            Unauthenticated: there is no key, or it is unknown, revoked or expired.
        """
        digest = tokens.sha256(key_of(headers))
        held = self._seen.get(digest)
        age = STALE_SECONDS if held is None else time.monotonic() - held[0]
        if held is not None and age < CACHE_SECONDS:
            return held[1]
        # One look-up answers everybody who waits for it. It is a task of its own, so that it does
        # not end with the request that happened to come first.
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest))
            asking.add_done_callback(lambda task: self._asked(digest, task))
        if held is not None and age < STALE_SECONDS:
            return held[1]
        return await asyncio.shield(asking)

    async def close(self) -> None:
        """End the look-ups that nobody waits for; the database may be closed after this."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def bearer(self, ticket: signed.Ticket, path: str) -> Caller:
        """Return whose key asked for the address of `path` that carries `ticket`.

        Raises:
            Unauthenticated: it was made for another, has expired, or its key opens nothing more.
        """
        async with self._database.reading() as session:
            digest = await session.scalar(select(Token.sha256).where(Token.id == ticket.key))
        if digest is None or not signed.is_good(ticket, path, digest):
            raise Unauthenticated(
                "This address is not valid or not valid any more; ask for it anew"
            )
        return await self._ask(digest)

    async def fresh(self, headers: Headers) -> Caller:
        """Return who sent `headers`, asking the database whatever the cache holds."""
        return await self._ask(tokens.sha256(key_of(headers)))

    async def _ask(self, digest: str) -> Caller:
        asked_at = time.monotonic()
        try:
            caller = await self._look_up(digest)
        except Unauthenticated:
            self._seen.pop(digest, None)
            raise
        if len(self._seen) >= CACHE_ENTRIES:
            self._seen.clear()
        self._seen[digest] = (asked_at, caller)
        return caller

    def _asked(self, digest: str, task: asyncio.Task[Caller]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # Those who waited have it; nobody else needs to hear of it.

    async def _look_up(self, digest: str) -> Caller:
        statement = (
            select(Token, Organization, User, Membership, Job.status, Job.workspace_id)
            .join(Organization, Organization.id == Token.org_id)
            .outerjoin(User, User.id == Token.user_id)
            .outerjoin(
                Membership,
                (Membership.user_id == Token.user_id) & (Membership.org_id == Token.org_id),
            )
            .outerjoin(Job, Job.id == Token.job_id)
            .where(Token.sha256 == digest)
        )
        async with self._database.reading() as session:
            row = (await session.execute(statement)).one_or_none()
        # The look-up is by the hash of 256 random bits, so its time tells nothing of the key;
        # the comparison takes the same time wherever two hashes begin to differ.
        if row is None or not hmac.compare_digest(row[0].sha256, digest) or not _alive(row[0]):
            raise Unauthenticated(
                "The API key is not valid; it may be mistyped, revoked or expired"
            )
        token, organization, user, membership, status, workspace_id = row
        if token.job_id is not None:
            return Caller(
                token_id=token.id,
                org_id=organization.id,
                org_key=organization.key,
                job_id=token.job_id,
                attempt=token.attempt,
                workspace_id=workspace_id,
                ended=status in ENDED,
            )
        if membership is None or user is None or token.role is None:
            raise Unauthenticated("The owner of this API key has left the organization")
        return Caller(
            token_id=token.id,
            org_id=organization.id,
            org_key=organization.key,
            role=min(Role[token.role.upper()], Role[membership.role.upper()]),
            user_id=user.id,
            username=user.username,
            email=user.email,
            full_name=user.full_name,
        )


def _alive(token: Token) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now())


def key_of(headers: Headers) -> str:
    """Return the key that a request carries, in either of the two accepted headers.

    Clients of version 2 push with HTTP Basic, as the user `__token__` with the key as password.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic" and (password := _basic(credentials)):
        return password
    key = headers.get("x-api-key", "").strip()
    if not key:
        raise Unauthenticated(
            "An API key is needed; send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`"
        )
    return key


def _basic(credentials: str) -> str:
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return ""
    return password if user == "__token__" else ""
