"""What both clients need to send a call and to read its response."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx2

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
from dreadnode.http.calls import Call, training_job_events
from dreadnode.http.retries import Outage
from dreadnode.lazy_types import jobs
from dreadnode.version import __version__

T = TypeVar("T")
Client = TypeVar("Client", httpx2.Client, httpx2.AsyncClient)
Chunks = Iterable[bytes] | AsyncIterable[bytes]

TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
"""The default timeouts of a request."""

CHUNK = 1 << 16
"""Bytes that are read or written at a time."""


def client_options(server: str, api_key: str | None, timeout: httpx2.Timeout) -> dict[str, Any]:
    """Return the options of both httpx2 clients."""
    python = sys.version_info
    headers = {
        "User-Agent": f"dreadnode/{__version__} python/{python.major}.{python.minor}",
        "Accept": "application/json",
    }
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API token has invalid characters; copy it again")
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": server if server.endswith("/api/v1") else f"{server}/api/v1",
        "headers": headers,
        "timeout": timeout,
        # Loading the trusted certificates takes longer than most calls, and plain HTTP does not
        # use them: a redirect to another scheme is not followed.
        "verify": ssl.create_default_context() if server.startswith("https:") else False,
        # A proxy cannot reach a server on this machine.
        "trust_env": not is_loopback(server),
    }


@contextmanager
def open_request(
    client: Client, call: Call[Any], chunks: Callable[[BinaryIO], Chunks]
) -> Iterator[httpx2.Request]:
    """Yield the request that CALL describes; its files are open until the block ends.

    Args:
        client: Builds the request.
        call: The call to send.
        chunks: Reads a file in the way of the client, blocking or not.
    """
    headers = dict(call.headers)
    content: Any = call.body
    files = None
    with ExitStack() as stack:
        if call.files is not None:
            files = {
                field: (name, stack.enter_context(_open_file(path)))
                for field, (path, name) in call.files.items()
            }
        elif call.file is not None:
            file = stack.enter_context(_open_file(call.file))
            headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
            content = chunks(file)
        if content is not None:
            headers["Content-Type"] = call.content_type
        yield client.build_request(
            call.method,
            call.path,
            params=call.params,
            content=content,
            files=files,
            headers=headers,
            timeout=_timeout(client.timeout, call.seconds),
        )


def _timeout(default: httpx2.Timeout, seconds: float | None) -> httpx2.Timeout:
    if seconds is None:
        return default
    return httpx2.Timeout(seconds, connect=default.connect, write=default.write, pool=default.pool)


def parse_response(call: Call[T], response: httpx2.Response) -> T:
    """Return the result of CALL, or raise the error that RESPONSE stands for."""
    if not response.is_success:
        raise refusal(response.status_code, response.headers, response.content)
    with expect_valid(call, response):
        return call.parse(response.content)


class EventStream:
    """Reads a job's events from one connection after the other.

    Args:
        scope: The job's workspace.
        job_id: The job.
        after: Only events after the one with this id.
        max_outage: Seconds without a connection after which the server counts as gone.
        on_connection: Called with False when the connection is lost, with True when it is back.
    """

    def __init__(
        self,
        scope: Scope,
        job_id: str,
        after: int,
        max_outage: float,
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        self._scope = scope
        self._job_id = job_id
        self._after = after
        self._outage = Outage(max_outage)
        self._is_connected = False
        self._on_connection = on_connection or (lambda is_connected: None)

    def call(self) -> Call[bytes]:
        """Describe the call for the events that were not read yet."""
        self._is_connected = False
        self._call = training_job_events(self._scope, self._job_id, after=self._after)
        return self._call

    def connected(self) -> None:
        """Record that the server has answered."""
        self._is_connected = True
        self._on_connection(True)

    def parse(
        self, event: httpx2.ServerSentEvent, response: httpx2.Response
    ) -> jobs.JobEvent | None:
        """Return the job's event in EVENT, if it holds one."""
        if not event.data:
            return None
        with expect_valid(self._call, response):
            parsed = jobs.JobEvent.model_validate({**json.loads(event.data), "id": event.id})
        self._after = parsed.id
        return parsed

    def failed(self, failure: ConnectionFailed | ServerError) -> None:
        """Record a lost connection; raise FAILURE when the outage has lasted too long."""
        self._on_connection(False)
        if self._is_connected:
            # The outage begins now: until here the connection was alive.
            self._outage.answered()
        else:
            self._outage.failed(failure)


@contextmanager
def expect_valid(call: Call[Any], response: httpx2.Response) -> Iterator[None]:
    """Turn the errors of parsing RESPONSE into one of ours."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(
            f"the response to {call.method} {call.path} is not what this client expects"
            f"{_first_field(error)}; is {response.url.host} a dreadnode server of a matching "
            "version?"
        ) from error


def _first_field(error: Exception) -> str:
    """Name the first field that was invalid, if the error is about fields."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f" ({field}: {first['msg']})" if field else ""


@contextmanager
def translate_errors(client: Client, call: Call[Any]) -> Iterator[None]:
    """Turn the errors of httpx2 into ours."""
    server = str(client.base_url).removesuffix("/").removesuffix("/api/v1")
    try:
        yield
    except httpx2.ConnectError as error:
        raise ConnectionFailed(
            f"no server answers at {server}; start one with `dn serve`, or name another with "
            "`--server`",
            unsent=True,
        ) from error
    except httpx2.TimeoutException as error:
        unsent = isinstance(error, (httpx2.ConnectTimeout, httpx2.PoolTimeout))
        raise TimedOut(
            f"{server} did not answer in time; try again later", unsent=unsent
        ) from error
    except httpx2.InvalidURL as error:
        raise ConnectionFailed(f"{server} is not a valid address") from error
    except httpx2.HTTPError as error:
        raise ConnectionFailed(
            f"the connection to {server} broke during {call.method} {call.path}; try again"
        ) from error


@contextmanager
def _open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to send, or say why it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def atomic_write(to: Path, sha256: str | None) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes a file beside TO, which replaces TO once it is complete.

    Raises:
        ProtocolError: The content does not have the digest SHA256.
        UnusableFile: The file cannot be written.
    """
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:

            def write(chunk: bytes) -> None:
                file.write(chunk)
                digest.update(chunk)

            yield write
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ProtocolError(f"{to.name} was damaged in transit and is not kept; try again")
        temporary.replace(to)
    except OSError as error:
        raise UnusableFile(f"{to} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
