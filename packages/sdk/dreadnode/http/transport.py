"""What both clients need to send a call and to read its answer; the one place that reads httpx."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from dreadnode import __version__
from dreadnode.config import Scope, is_loopback
from dreadnode.errors import (
    ConfigError,
    ConnectionFailed,
    ProtocolError,
    ServerError,
    TimedOut,
    UnusableFile,
    refusal,
)
from dreadnode.http.calls import Call
from dreadnode.http.calls.jobs import training_job_events
from dreadnode.http.httpx_import import httpx
from dreadnode.http.retries import Silence
from dreadnode.http.sse import Reader

if TYPE_CHECKING:
    from dreadnode.training.jobs import JobEvent

T = TypeVar("T")
Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
"""How long to wait for a server."""

CHUNK = 1 << 16
"""Bytes that are read or written at a time."""


def http_options(server: str, api_key: str | None, timeout: httpx.Timeout) -> dict[str, Any]:
    """Return what both httpx clients are made with."""
    python = sys.version_info
    headers = {
        "User-Agent": f"dreadnode/{__version__} python/{python.major}.{python.minor}",
        "Accept": "application/json",
    }
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key holds characters that no key has; copy it once more")
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": server if server.endswith("/api/v1") else f"{server}/api/v1",
        "headers": headers,
        "timeout": timeout,
        # To read the trusted certificates takes longer than most calls do; plain HTTP has no use
        # for them, and a redirect to another scheme is not followed.
        "verify": ssl.create_default_context() if server.startswith("https:") else False,
        # A proxy is never the way to this machine.
        "trust_env": not is_loopback(server),
    }


def request(client: Client, call: Call[Any], content: Any) -> httpx.Request:
    """Build the request that CALL describes, with CONTENT as its body."""
    headers = dict(call.headers)
    if call.file is not None:
        headers["Content-Length"] = str(call.file.stat().st_size)
    elif call.form is not None:
        headers["Content-Length"] = str(call.form.length)
    if content is not None:
        headers["Content-Type"] = call.content_type
    timeout = client.timeout
    if call.seconds is not None:
        of = timeout
        timeout = httpx.Timeout(call.seconds, connect=of.connect, write=of.write, pool=of.pool)
    return client.build_request(
        call.method,
        call.path,
        params=call.params,
        content=content,
        headers=headers,
        timeout=timeout,
    )


def read(call: Call[T], response: httpx.Response) -> T:
    """Return what CALL gives, or raise what was said or meant instead."""
    if not response.is_success:
        raise refusal(response.status_code, response.headers, response.content)
    with _understood(call, response):
        return call.parse(response.content)


class Listener:
    """Reads the events of a job out of the lines of one connection after the other.

    Args:
        scope: Where the job is.
        job_id: The job.
        after: Only what comes behind the event with this id.
        patience: How many seconds the server may be silent.
    """

    def __init__(self, scope: Scope, job_id: str, after: int, patience: float) -> None:
        self._scope = scope
        self._job_id = job_id
        self._after = after
        self._silence = Silence(patience)
        self._reader = Reader()

    def call(self) -> Call[bytes]:
        """Describe the call for what has not been told yet."""
        self._reader = Reader()
        self._call = training_job_events(self._scope, self._job_id, after=self._after)
        return self._call

    def read(self, line: str, response: httpx.Response) -> JobEvent | None:
        """Take the next line of RESPONSE; return an event if it ends one."""
        self._silence.broken()
        message = self._reader.read(line)
        if message is None:
            return None
        from dreadnode.training.jobs import JobEvent

        with _understood(self._call, response):
            told = JobEvent.model_validate({**json.loads(message.data), "id": message.id})
        self._after = told.id
        return told

    def missed(self, failure: ConnectionFailed | ServerError) -> None:
        """Take note of a connection that broke; raise FAILURE when none has held for too long."""
        self._silence.goes_on(failure)


@contextmanager
def _understood(call: Call[Any], response: httpx.Response) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(
            f"the answer to {call.method} {call.path} is not what this client expects"
            f"{_where(error)}; is {response.url.host} a dreadnode server of a matching version?"
        ) from error


def _where(error: Exception) -> str:
    """Name the first field that was not understood, if it was a field."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f" ({field}: {first['msg']})" if field else ""


@contextmanager
def translated(client: Client, call: Call[Any]) -> Iterator[None]:
    """Turn what httpx raises into our own errors."""
    server = str(client.base_url).removesuffix("/").removesuffix("/api/v1")
    try:
        yield
    except httpx.ConnectError as error:
        raise ConnectionFailed(
            f"no server answers at {server}; start one with `dn serve`, or name another with "
            "`--server`",
            unsent=True,
        ) from error
    except httpx.TimeoutException as error:
        unsent = isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout))
        raise TimedOut(
            f"{server} did not answer in time; try again later", unsent=unsent
        ) from error
    except httpx.InvalidURL as error:
        raise ConnectionFailed(f"{server} is not an address that can be reached") from error
    except httpx.HTTPError as error:
        raise ConnectionFailed(
            f"the connection to {server} broke while it answered {call.method} {call.path}; "
            "try again"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file that is to be sent, or say why it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Read FILE to its end."""
    while chunk := file.read(CHUNK):
        yield chunk


async def async_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Read FILE to its end, without holding up whatever else is going on."""
    import asyncio

    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


@contextmanager
def fresh(to: Path, sha256: str | None) -> Iterator[Callable[[bytes], object]]:
    """Yield what writes a file beside TO, and put that file in its place once it is whole."""
    fresh = to.with_name(f".{to.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:

            def write(chunk: bytes) -> None:
                file.write(chunk)
                digest.update(chunk)

            yield write
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ProtocolError(f"{to.name} arrived damaged and was not kept; try again")
        fresh.replace(to)
    except OSError as error:
        raise UnusableFile(f"{to} cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
