"""Request bodies: read from the connection within bounds."""

from typing import Any

from starlette.requests import Request as HttpRequest

from dreadnode_engine.errors import Overloaded, Refused
from dreadnode_engine.protocol.protobuf import MAX_BODY
from dreadnode_engine.protocol.validation import json_object
from dreadnode_engine.settings import MIB

IN_FLIGHT_BYTES = 4 * MAX_BODY
"""Bytes of bodies, of all connections, that may be read and parsed at the same time."""


class BodyReader:
    """Reads bodies, and counts the bytes of those that are not parsed yet."""

    def __init__(self, limit: int = IN_FLIGHT_BYTES) -> None:
        self._limit = limit
        self._in_flight = 0

    async def read(self, request: HttpRequest) -> bytes:
        """Return the body of REQUEST, or refuse one that is too large before it is all read."""
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                self._in_flight += len(part)
                if size > MAX_BODY:
                    raise Refused(
                        f"The body is larger than {MAX_BODY // MIB} MiB; send smaller batches"
                    )
                if self._in_flight > self._limit:
                    raise Overloaded("The engine is reading too many large requests; try again")
                parts.append(part)
            return b"".join(parts)
        finally:
            self._in_flight -= size


async def read_body(request: HttpRequest) -> bytes:
    """Return the body of REQUEST."""
    reader: BodyReader = request.app.state.bodies
    return await reader.read(request)


async def read_json(request: HttpRequest) -> dict[str, Any]:
    """Return the body of REQUEST as a JSON object."""
    return json_object(await read_body(request))
