"""What every request must pass before its route: client version, rate, token, size and time.

The token, or the session of a page of the console, comes before the body: without a valid one no
byte of a body is kept. A body that is kept in memory has a limit of its own and a share of what all
bodies together may take. One organization has at most half of all requests at the same time, so
that it cannot take every connection.

Requests that need neither, such as the sign-in and signed URLs, count for no organization: only the
limits of all requests and bodies hold, and their bodies must be small.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreadnode_api.auth import tokens
from dreadnode_api.auth.callers import Authenticator, session_key, token_of
from dreadnode_api.auth.cookies import Cookies
from dreadnode_api.auth.rates import Buckets, network
from dreadnode_api.auth.shares import Share, SharedAmount
from dreadnode_api.errors import ApiError, Malformed, Unauthenticated, UpgradeRequired
from dreadnode_api.http import protocol
from dreadnode_api.http.error_responses import error_response
from dreadnode_api.settings import Settings

# Probes and prepared bytes cost less to serve than to count.
UNLIMITED = ("/api/v1/training/catalog", "/health/", "/metrics")
# The routes of these read their body themselves, in pieces and within limits of their own.
_UPLOAD = re.compile(
    r"^(PUT /api/v1/(org/[^/]+/(datasets/|ws/[^/]+/training/jobs/[^/]+/files/)"
    r"|[^/]+/[^/]+/blobs/uploads/)|POST /api/v1/org/[^/]+/ws/[^/]+/training/adapters$)"
)
# The console's pages that need a session; the sign-in, files and probes do not.
_PAGE = re.compile(r"^/(ws/|workspaces$|sign-out$|$)")
_PROGRESS = re.compile(r"^/api/v1/org/[^/]+/ws/[^/]+/training/jobs/[^/]+/progress$")
_CLIENT = re.compile(r"^([A-Za-z][\w-]*)/(\d+(?:\.\d+)*)")
PROGRESS_BYTES_FACTOR = 16
ANONYMOUS_BYTES = 16 * 1024
"""How large a body may be that neither a token nor a session comes with, such as a sign-in."""
MAX_FIELDS, MAX_ITEMS = 50_000, 300_000
"""How many fields, lists and objects a JSON body may have, and how many items in all, such as the
token ids of a prompt. They are parsed on the event loop, and a megabyte of empty objects would hold
it for more than a second."""
# Takes an unterminated string too, so that the time is linear in the size of any body.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
SLOW_BYTES_PER_SECOND = 1024
"""A body that arrives more slowly than this on average is refused."""
DISCARD_BYTES = 4 * 1024 * 1024
DISCARD_SECONDS = 5.0
UPLOADS_AT_ONCE = 32
"""How many uploads of one organization may be received or read at the same time."""


class Guard:
    """Refuses what need not reach a route."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        authenticator: Authenticator,
        cookies: Cookies,
        invented: Buckets,
    ) -> None:
        self.app = app
        self._authenticator = authenticator
        self._cookies = cookies
        self._max_json = settings.max_json_bytes
        self._silence = settings.silence_seconds
        self._minimum = _minimum(settings.minimum_client)
        self._rates = Buckets(settings.rate_limit, settings.rate_burst)
        self._invented = invented
        connections = protocol.possible_connections(settings.max_connections)
        self._requests = SharedAmount(connections, "requests")
        self._uploads = SharedAmount(connections, "uploads", most=UPLOADS_AT_ONCE)
        self._memory = SharedAmount(settings.max_body_bytes_in_memory, "bytes of bodies")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        has_body = "content-length" in headers or "transfer-encoding" in headers
        timed = TimedBody(receive, self._silence) if has_body else None
        try:
            self._check_client(headers)
            org_id = await self._check_token(scope, headers, has_body=has_body)
            body = timed or receive
            async with self._share(scope, headers, org_id, body, has_body=has_body) as bounded:
                await self.app(scope, bounded, send)
        except ApiError as error:
            if timed is not None:
                if "expect" not in headers:  # It waits for permission to send its body.
                    await timed.discard()
                error.headers.setdefault("Connection", "close")
            await error_response(error, scope)(scope, receive, send)

    def _check_client(self, headers: Headers) -> None:
        if self._minimum is None:
            return
        product, least = self._minimum
        match = _CLIENT.match(headers.get("user-agent", ""))
        if match and match[1] == product and _version(match[2]) < _version(least):
            raise UpgradeRequired(
                f"This server needs `{product}` {least} or newer, and yours is {match[2]}; "
                "upgrade it with `pip install --upgrade dreadnode`"
            )

    async def _check_token(self, scope: Scope, headers: Headers, *, has_body: bool) -> str | None:
        """Return the organization of the token of a request, or None if it needs none.

        Public paths and signed URLs need none.
        """
        if not scope["path"].startswith(("/api/", "/v1/")):
            return await self._check_session(scope, headers, has_body=has_body)
        address = network(scope)
        try:
            digest = tokens.sha256(token_of(headers))
        except Unauthenticated:
            self._count(scope, address)
            if has_body or b"signature=" not in scope["query_string"]:
                raise
            return None
        is_known = self._authenticator.knows(digest)
        if not is_known:
            self._invented.check(address)
        self._count(scope, digest if is_known else address)
        try:
            return (await self._authenticator.caller(headers)).org_id
        except Unauthenticated:
            self._invented.take(address)
            raise

    async def _check_session(self, scope: Scope, headers: Headers, *, has_body: bool) -> str | None:
        """Return the organization of the session of a page, or None without a session.

        Raises:
            Unauthenticated: a form is sent to a page that needs a session.
        """
        secret = self._cookies.session(headers)
        is_known = bool(secret) and self._authenticator.knows(session_key(secret))
        self._count(scope, session_key(secret) if is_known else network(scope))
        # Probes must answer without the database, with any headers.
        if not _PAGE.match(scope["path"]):
            return None
        try:
            return (await self._authenticator.visitor(secret)).org_id
        except Unauthenticated:
            if has_body:
                raise
            return None  # The page leads to the sign-in.

    def _count(self, scope: Scope, credential: str) -> None:
        if not scope["path"].startswith(UNLIMITED):
            self._rates.take(credential)

    @asynccontextmanager
    async def _share(
        self,
        scope: Scope,
        headers: Headers,
        org_id: str | None,
        receive: Receive,
        *,
        has_body: bool,
    ) -> AsyncIterator[Receive]:
        """Yield `receive` within the organization's share of requests, uploads and memory."""
        with Share(self._requests, org_id, 1):
            if not has_body:
                yield receive
            elif _UPLOAD.match(f"{scope['method']} {scope['path']}"):
                with Share(self._uploads, org_id, 1):
                    yield receive
            else:
                async with self._in_memory(scope, headers, org_id, receive) as complete:
                    yield complete

    @asynccontextmanager
    async def _in_memory(
        self, scope: Scope, headers: Headers, org_id: str | None, receive: Receive
    ) -> AsyncIterator[Receive]:
        """Yield `receive`, having read the whole body."""
        limit, factor = self._max_json if org_id else min(self._max_json, ANONYMOUS_BYTES), 1
        if _PROGRESS.match(scope["path"]):
            # The last event repeats whole metric histories.
            factor = PROGRESS_BYTES_FACTOR
            limit *= factor
        too_large = Malformed(f"The body is larger than the limit of {limit:,} bytes")
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large
        body = bytearray()
        with Share(self._memory, org_id) as share:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Malformed("The body ended before it was complete")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise too_large
                share.grow(len(body))
                if not message.get("more_body", False):
                    break
            _check_values(body, factor)
            yield _replay(bytes(body), receive)


class TimedBody:
    """A `receive` that refuses a body that stops arriving or arrives too slowly."""

    def __init__(self, receive: Receive, silence: float) -> None:
        self._receive = receive
        self._silence = silence
        self._bytes = 0
        self._waited = 0.0
        self._is_complete = False

    async def __call__(self) -> Message:
        """Return the next message; once the body is complete it may take any time."""
        if self._is_complete:
            return await self._receive()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._silence):
                message = await self._receive()
        except TimeoutError:
            raise Malformed(
                f"The body stopped arriving for {self._silence:.0f} s; send it again"
            ) from None
        self._waited += time.monotonic() - started
        self._bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        is_slow = self._bytes < SLOW_BYTES_PER_SECOND * (self._waited - self._silence)
        if is_slow and not self._is_complete:
            raise Malformed(
                f"The body arrives at less than {SLOW_BYTES_PER_SECOND:,} bytes a second; send it "
                "over a faster connection"
            )
        return message

    async def discard(self) -> None:
        """Read on for a while: a client that sends its body does not read the response yet."""
        most = self._bytes + DISCARD_BYTES
        with suppress(TimeoutError, ApiError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self._is_complete and self._bytes < most:
                    await self()


def _check_values(body: bytearray, factor: int) -> None:
    """Return if the JSON in BODY has at most FACTOR times the values that a body may have."""
    # Most bodies are too small to have so many.
    if len(body) < MAX_FIELDS:
        return
    outside = _STRING.sub(b"", body)
    fields = sum(outside.count(each) for each in b":[{")
    for count, most in ((fields, MAX_FIELDS), (outside.count(b","), MAX_ITEMS)):
        if count > most * factor:
            raise Malformed(
                f"The body has more than {most * factor:,} values; send fewer at a time"
            )


def _replay(body: bytes, receive: Receive) -> Receive:
    is_sent = False

    async def again() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _minimum(text: str) -> tuple[str, str] | None:
    match = _CLIENT.match(text)
    return (match[1], match[2]) if match else None


def _version(text: str) -> tuple[int, ...]:
    """Return what versions are compared by; `2.1` and `2.1.0` are the same version."""
    numbers = [int(part[:9]) for part in text.split(".")]
    while numbers[1:] and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
