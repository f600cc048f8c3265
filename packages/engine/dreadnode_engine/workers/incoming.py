"""A client's request at the router, and what it asks for."""

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.requests import Request as HttpRequest

from dreadnode_engine.http.bodies import MAX_JSON, read_body
from dreadnode_engine.protocol.protobuf import MAX_BODY, MEDIA_TYPE, parse_forward_backward
from dreadnode_engine.protocol.validation import json_object
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.workers.forwarding import Forwarded, forwarded


@dataclass
class Incoming:
    """A request of WHO, whose body has been read."""

    request: HttpRequest
    who: Principal
    body: bytes

    @cached_property
    def call(self) -> Forwarded:
        """The request as workers get it."""
        return forwarded(self.request, self.body)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The JSON object in the body."""
        return json_object(self.body)

    @property
    def name(self) -> str:
        """What the address names: a session, run or sampler; empty if nothing."""
        return str(self.request.path_params.get("name", ""))

    def text(self, name: str) -> str:
        """Return the string NAME of the body; empty if there is none, which a worker refuses."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    async def trained_run(self) -> str:
        """Return the run of a forward_backward request."""
        if self.request.headers.get("content-type", "").split(";")[0] != MEDIA_TYPE:
            return ""
        encoding = self.request.headers.get("content-encoding")
        # In a thread: decompressing a large body would stop the event loop.
        parsed = await asyncio.to_thread(parse_forward_backward, self.body, encoding)
        return str(parsed.model_id)


async def read(request: HttpRequest, who: Principal, path: str) -> Incoming:
    """Read REQUEST, sent to PATH: its body is JSON unless that is `/forward_backward`."""
    most = MAX_BODY if path == "/forward_backward" else MAX_JSON
    return Incoming(request, who, await read_body(request, most))
