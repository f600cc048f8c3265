"""Requests that are sent on to a worker, and sent again if it ends meanwhile."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from dreadnode_engine.errors import Overloaded, Refused
from dreadnode_engine.http.bodies import target_of
from dreadnode_engine.http.calls import CLIENT_GONE, ClosingResponse
from dreadnode_engine.settings import MIB
from dreadnode_engine.workers.supervisor import Worker

WAIT_SECONDS = 15.0
"""How long a request waits for a worker that restarts."""
PAUSE_SECONDS = 0.05
"""How long after a lost connection the request is sent again."""
MAX_WHOLE = 8 * MIB
"""A larger response is relayed in parts."""
_OWN = {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"}
"""Headers that belong to one connection."""
Lost = (httpx2.HTTPError, OSError, RuntimeError)
"""What a request raises whose worker ends; a RuntimeError if its connections are closed."""


class WorkerAway(Overloaded):
    """A worker that restarts, or dies at every start. The SDK sends the request again."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(
            worker.problem or f"Worker {worker.index} of this engine restarts; try again later"
        )


@dataclass(frozen=True)
class Forwarded:
    """A request as workers get it; TARGET is its path with the query."""

    method: str
    target: bytes
    headers: Mapping[bytes, bytes]
    body: bytes = b""

    def to(self, worker: Worker, content: Any = None) -> httpx2.Request:
        """Return the request to WORKER, with CONTENT in place of its body if there is some."""
        # A path of a client stays as it is encoded.
        url = httpx2.URL(worker.url).copy_with(raw_path=self.target)
        return httpx2.Request(
            self.method,
            url,
            headers=list(self.headers.items()),
            content=content if content is not None else self.body or None,
        )


def forwarded(request: HttpRequest, body: bytes = b"") -> Forwarded:
    """Return REQUEST with its BODY, as workers get it."""
    left_out = {*_OWN, b"expect", *((b"content-length",) if body else ())}
    headers = {name: value for name, value in request.headers.raw if name not in left_out}
    return Forwarded(request.method, target_of(request), headers, body)


async def send(worker: Worker, call: Forwarded, seconds: float | None = None) -> httpx2.Response:
    """Return the response of WORKER to CALL, of which nothing has been read yet.

    Raises:
        WorkerAway: It does not serve for SECONDS; None waits WAIT_SECONDS.
    """
    deadline = time.monotonic() + (WAIT_SECONDS if seconds is None else seconds)
    while True:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await worker.ready.wait()
        except TimeoutError:
            raise WorkerAway(worker) from None
        try:
            return await worker.http.send(call.to(worker), stream=True)
        except Lost:
            if time.monotonic() > deadline:
                raise WorkerAway(worker) from None
            # The supervisor sees the end of a worker after its connections have ended.
            await asyncio.sleep(PAUSE_SECONDS)


async def relay(worker: Worker, call: Forwarded) -> Response:
    """Return the response of WORKER to CALL. All calls may be repeated."""
    while True:
        answer = await send(worker, call)
        size = answer.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_WHOLE:
            return in_parts(answer)
        if (body := await _whole(answer)) is not None:
            response = Response(body, answer.status_code)
            response.raw_headers = _headers(answer)
            return response


async def relay_upload(worker: Worker, request: HttpRequest) -> Response:
    """Send a large body on to WORKER while it arrives; it cannot be sent again."""
    try:
        call = forwarded(request).to(worker, request.stream())
        return in_parts(await worker.http.send(call, stream=True))
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    except Lost:
        raise WorkerAway(worker) from None


async def ask(worker: Worker, call: Forwarded, seconds: float | None = None) -> Any:
    """Return the JSON of the response of WORKER to CALL; None without content.

    Raises:
        WorkerAway: It does not serve for SECONDS; None waits WAIT_SECONDS.
        Refused: with the words and the status of the worker.
    """
    body = None
    while body is None:
        answer = await send(worker, call, seconds)
        body = await _whole(answer)
    value: Any = json.loads(body) if body else None
    if answer.status_code >= 400:
        refusal = Refused(str(value["detail"]))
        refusal.status = answer.status_code
        raise refusal
    return value


async def _whole(answer: httpx2.Response) -> bytes | None:
    """Return the body of ANSWER as it was sent; None if its worker ends meanwhile."""
    try:
        return b"".join([part async for part in answer.aiter_raw()])
    except Lost:
        return None
    finally:
        await answer.aclose()


def in_parts(answer: httpx2.Response) -> Response:
    """Return a response that is relayed while it arrives, and ends with the client's connection."""
    response = ClosingResponse(answer.aiter_raw(), answer.aclose, status_code=answer.status_code)
    response.raw_headers = _headers(answer)
    return response


def _headers(answer: httpx2.Response) -> list[tuple[bytes, bytes]]:
    return [(n.lower(), value) for n, value in answer.headers.raw if n.lower() not in _OWN]
