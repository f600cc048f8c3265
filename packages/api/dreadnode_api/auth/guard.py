"""What every request passes before it reaches a route: bounds, clients, rates and its traces."""

import re
import time
from collections import OrderedDict

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreadnode_api.auth import tokens
from dreadnode_api.auth.callers import token_of
from dreadnode_api.errors import (
    ApiError,
    Malformed,
    TooManyRequests,
    Unauthenticated,
    UpgradeRequired,
)
from dreadnode_api.http.error_responses import answer
from dreadnode_api.settings import Settings

# Prepared bytes and probes: serving them costs less than counting them.
UNCOUNTED = ("/api/v1/training/catalog", "/health/", "/metrics")
# These read their body themselves, piece by piece, within bounds of their own.
_UPLOAD = re.compile(
    r"^/api/v1/(org/[^/]+/(datasets/|ws/[^/]+/training/jobs/[^/]+/files/)"
    r"|[^/]+/[^/]+/blobs/uploads/)"
)
_PROGRESS = re.compile(r"^/api/v1/org/[^/]+/ws/[^/]+/training/jobs/[^/]+/progress$")
_JOB = re.compile(r"/training/jobs/([A-Za-z0-9-]{1,64})(?:/|$)")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT = re.compile(r"^([A-Za-z][\w-]*)/(\d+(?:\.\d+)*)")
PROGRESS_BYTES_FACTOR = 16


class Guard:
    """Refuses clients that are too old, requests that are too many, and bodies too large."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._max_json = settings.max_json_bytes
        self._minimum = _minimum(settings.minimum_client)
        self._buckets = Buckets(settings.rate_limit, settings.rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_client(headers)
            if not scope["path"].startswith(UNCOUNTED):
                self._buckets.take(_credential(headers, scope))
            receive = await self._bounded(scope, headers, receive)
        except ApiError as error:
            response: Response = answer(error)
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

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

    async def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Return `receive`, having taken in the whole of a body that must be small."""
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return receive
        if scope["method"] == "PUT" and _UPLOAD.match(scope["path"]):
            return receive
        limit = self._max_json
        if _PROGRESS.match(scope["path"]):
            limit *= PROGRESS_BYTES_FACTOR  # The last event repeats whole series.
        told = headers.get("content-length", "0")
        too_large = Malformed(f"The body is larger than the {limit:,} bytes that are taken here")
        if told.isdecimal() and int(told) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Malformed("The body ended before it was whole")
            body += message.get("body", b"")
            if len(body) > limit:
                raise too_large
            if not message.get("more_body", False):
                break
        return _replay(bytes(body), receive)


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _credential(headers: Headers, scope: Scope) -> str:
    try:
        return tokens.sha256(token_of(headers))
    except Unauthenticated:
        client = scope.get("client")
        return client[0] if client else ""


class Buckets:
    """Token buckets, one a credential: `rate` a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int, remembered: int = 10_000) -> None:
        self._rate = rate
        self._burst = float(max(burst, 1))
        self._remembered = remembered
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> None:
        """Count one request of `who`.

        Raises:
            TooManyRequests: it has none left; `Retry-After` says when it has.
        """
        if self._rate <= 0:
            return
        present = time.monotonic()
        left, at = self._buckets.pop(who, (self._burst, present))
        left = min(self._burst, left + (present - at) * self._rate)
        allowed = left >= 1
        self._buckets[who] = (left - 1 if allowed else left, present)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        if not allowed:
            seconds = max(1, round((1 - left) / self._rate + 0.5))
            raise TooManyRequests(
                f"Too many requests with this API token; wait {seconds} s and send fewer",
                headers={"Retry-After": str(seconds)},
            )


def _minimum(text: str) -> tuple[str, str] | None:
    match = _CLIENT.match(text)
    return (match[1], match[2]) if match else None


def _version(text: str) -> tuple[int, ...]:
    """Return what versions are compared by; `2.1` and `2.1.0` are one version."""
    numbers = [int(part[:9]) for part in text.split(".")]
    while numbers[1:] and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
