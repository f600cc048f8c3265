"""Requests: their bodies, read from the connection within bounds, and their targets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request as HttpRequest

from dreadnode_engine.errors import Overloaded, Refused
from dreadnode_engine.protocol.protobuf import MAX_BODY
from dreadnode_engine.protocol.validation import json_object
from dreadnode_engine.settings import MIB

IN_FLIGHT_BYTES = 4 * MAX_BODY
"""Bytes of bodies, of all connections, that may be read and parsed at the same time."""
MAX_JSON = 4 * MIB
"""The largest JSON body: parsing one stops the event loop, and no context has so many tokens."""
SILENCE_SECONDS = 60.0
"""How long a client may stop sending its body."""


class BodyReader:
    """Reads bodies, and counts the bytes of those that are not parsed yet."""

    def __init__(
        self, limit: int = IN_FLIGHT_BYTES, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._limit = limit
        self._silence_seconds = silence_seconds
        self._in_flight = 0

    async def read(self, request: HttpRequest, most: int) -> bytes:
        """Return the body of REQUEST, or refuse one of more than MOST bytes before it is all read.

        Raises:
            Refused: It is too large, or its client stops sending.
            Overloaded: Too much is read from all clients.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self.parts(request, most, "send smaller batches"):
                size += len(part)
                self._in_flight += len(part)
                if self._in_flight > self._limit:
                    raise Overloaded("The engine is reading too many large requests; try again")
                parts.append(part)
            return b"".join(parts)
        finally:
            self._in_flight -= size

    async def parts(self, request: HttpRequest, most: int, remedy: str) -> AsyncIterator[bytes]:
        """Yield the body of REQUEST as it arrives, and refuse one of more than MOST bytes.

        REMEDY tells the client of a body that is too large what to do.

        Raises:
            Refused: It is too large, or its client stops sending.
        """
        size = 0
        stream = request.stream()
        while (part := await self._next(stream)) is not None:
            size += len(part)
            if size > most:
                raise Refused(f"The body is larger than {most // MIB} MiB; {remedy}")
            yield part

    async def _next(self, stream: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self._silence_seconds):
                return await anext(stream, None)
        except TimeoutError:
            raise Refused(
                f"The body stopped arriving for {self._silence_seconds:g} seconds; send it again"
            ) from None


def target_of(request: HttpRequest) -> bytes:
    """Return the path of REQUEST with its query, as the client has encoded both."""
    query = request.scope["query_string"]
    return bytes(request.scope["raw_path"] + (b"?" + query if query else b""))


async def read_body(request: HttpRequest, most: int = MAX_JSON) -> bytes:
    """Return the body of REQUEST, which may have MOST bytes."""
    reader: BodyReader = request.app.state.bodies
    return await reader.read(request, most)


async def read_json(request: HttpRequest) -> dict[str, Any]:
    """Return the body of REQUEST as a JSON object."""
    return json_object(await read_body(request))
