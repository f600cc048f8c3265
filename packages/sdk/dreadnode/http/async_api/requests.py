"""How the client sends calls: connection, retries, downloads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import httpx2

from dreadnode.config import Connection, Scope, resolve, server_url
from dreadnode.errors import DreadnodeError, refusal
from dreadnode.http.calls import Call
from dreadnode.http.retries import Retries
from dreadnode.http.transport import (
    CHUNK,
    TIMEOUT,
    atomic_write,
    client_options,
    open_request,
    parse_response,
    translate_errors,
)

T = TypeVar("T")
Result = TypeVar("Result")


class AsyncRequests:
    """Sends calls to one server, and repeats them where that is safe.

    Args:
        server: The server's address, for instance `http://127.0.0.1:8799`.
        api_key: A token of that server.
        organization: The organization of scoped calls.
        workspace: The workspace of scoped calls.
        timeout: How long to wait for the server; 5 s to connect and 30 s to answer by default.
        retries: How failed calls are repeated.
        transport: Carries requests instead of the network.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        server: str,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        workspace: str | None = None,
        timeout: httpx2.Timeout = TIMEOUT,
        retries: Retries | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.server = server_url(server)
        self.scope = Scope(organization, workspace)
        self._retries = retries or Retries()
        self._sleep = sleep or asyncio.sleep
        options = client_options(self.server, api_key, timeout)
        self._http = httpx2.AsyncClient(**options, transport=transport)

    def __repr__(self) -> str:
        organization, workspace = self.scope.organization, self.scope.workspace
        name = type(self).__name__
        return f"{name}({self.server!r}, {organization=}, {workspace=})"

    @classmethod
    def from_config(
        cls,
        *,
        server: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        workspace: str | None = None,
        profile: str | None = None,
    ) -> Self:
        """Create a client from arguments, environment and saved profile, as `dn` does.

        Args:
            server: The server, with `api_key` as its token; else those of the environment or of a
                profile.
            api_key: The token for SERVER.
            organization: The organization's slug.
            workspace: The workspace's slug.
            profile: The name of a saved profile, which replaces the environment.

        Raises:
            ConfigError: No server is set, or the profile does not exist.
            InputError: The arguments contradict each other.
        """
        connection = resolve(
            server=server,
            api_key=api_key,
            organization=organization,
            workspace=workspace,
            profile=profile,
        )
        return cls.to(connection)

    @classmethod
    def to(cls, connection: Connection, **options: Any) -> Self:
        """Create a client for CONNECTION; OPTIONS are those of the constructor."""
        return cls(
            connection.server,
            connection.api_key,
            organization=connection.scope.organization,
            workspace=connection.scope.workspace,
            **options,
        )

    async def send(self, call: Call[T]) -> T:
        """Send CALL, again after temporary failures, and return its result.

        Raises:
            DreadnodeError: See `dreadnode.errors`.
        """
        return await self._with_retries(call, self._send_once)

    async def stream(self, call: Call[bytes]) -> AsyncIterator[bytes]:
        """Send CALL once and yield its response in chunks, without holding it in memory."""
        async with self._open(call) as response:
            async for chunk in response.aiter_bytes(CHUNK):
                yield chunk

    async def save(self, call: Call[bytes], to: Path, *, sha256: str | None = None) -> None:
        """Send CALL and write its response to the file TO, which appears once it is complete.

        Raises:
            ProtocolError: The response does not have the digest SHA256.
        """

        async def save_once(call: Call[bytes]) -> None:
            with atomic_write(to, sha256) as write:
                async with self._open(call) as response:
                    async for chunk in response.aiter_bytes(CHUNK):
                        write(chunk)

        await self._with_retries(call, save_once)

    async def _with_retries(
        self, call: Call[T], send: Callable[[Call[T]], Awaitable[Result]]
    ) -> Result:
        attempt, first_failure = 0, 0.0
        while True:
            try:
                return await send(call)
            except DreadnodeError as failure:
                first_failure = first_failure or time.monotonic()
                elapsed = time.monotonic() - first_failure
                delay = self._retries.delay(call, attempt, failure, elapsed)
                if delay is None:
                    raise
            await self._sleep(delay)
            attempt += 1

    async def _send_once(self, call: Call[T]) -> T:
        with translate_errors(self._http, call), open_request(self._http, call, _chunks) as request:
            response = await self._http.send(request)
        return parse_response(call, response)

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncIterator[httpx2.Response]:
        """Send CALL and yield its response, whose body is not read yet."""
        with translate_errors(self._http, call), open_request(self._http, call, _chunks) as request:
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    body = await response.aread()
                    raise refusal(response.status_code, response.headers, body)
                yield response
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    # In a thread: a slow disk must not stop the event loop.
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk
