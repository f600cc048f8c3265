"""HTTP/1.1 connections: uvicorn's, with limits and with our own error responses.

uvicorn closes a connection that is idle after a response. It waits for ever for the head of the
first request and for a client that does not read, and it accepts any number of connections. Here a
head must arrive in time and within a size, a client must keep reading, and the number of
connections is bounded: a new one replaces the one that has been idle for longest.
"""

import asyncio
import logging
import resource
import secrets
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dreadnode_api import logs
from dreadnode_api.errors import ApiError, Malformed, Unavailable
from dreadnode_api.http.error_responses import error_response
from dreadnode_api.http.security_headers import ALWAYS
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""The request line and all headers together."""
RESERVED_FILES = 64
"""File descriptors that connections must leave for the database, uploads and processes."""


def possible_connections(wanted: int) -> int:
    """Return how many of the connections WANTED this process may open files for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, max(1, (files - RESERVED_FILES) // 2))


def protocol(settings: Settings) -> Any:
    """Return what makes a connection, for uvicorn's setting `http`."""
    return partial(Connection, settings, possible_connections(settings.max_connections))


class Connection(HttpToolsProtocol):
    """One connection, of at most MOST."""

    def __init__(self, settings: Settings, most: int, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._settings = settings
        self._most = most
        self._head_bytes = self._header_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._too_many = False
        self.idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, or refuse the connection if there are too many."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self._settings.head_seconds, self._head_too_slow)
        if len(self.connections) > self._most:
            ours = (each for each in self.connections if isinstance(each, Connection))
            idle = [each for each in ours if each is not self and not _is_busy(each)]
            if idle:
                min(idle, key=lambda each: each.idle_since).transport.abort()
            else:
                self._too_many = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse DATA, which may belong to a head, to a body, or to both."""
        if self._too_many:
            self._refuse(
                Unavailable("The server has too many connections; try again in a few seconds")
            )
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None and not _is_busy(self):
                seconds = self._settings.head_seconds
                self._head_timer = self.loop.call_later(seconds, self._head_too_slow)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start a new head."""
        super().on_message_begin()
        self._in_head, self._header_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; more than fit into a head make the parser stop."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes + len(self.url) > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head, self._head_bytes = False, 0
        self._stop_head_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless a rest of this one's body is still to come."""
        self.idle_since = self.loop.time()
        if self.cycle is not None and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()

    def on_message_complete(self) -> None:
        """Expect another head."""
        super().on_message_complete()
        self._in_head = True

    def pause_writing(self) -> None:
        """Give the client time to continue reading."""
        super().pause_writing()
        if self._stall_timer is None:
            seconds = self._settings.silence_seconds
            self._stall_timer = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client is reading."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, in the documented envelope, and close the connection."""
        if self.cycle is not None and self.cycle.response_started and _is_busy(self):
            self.transport.close()  # The response has started; it can only be cut off.
            return
        self._refuse(
            Malformed(
                "This is not a valid HTTP request; its head may be larger than the limit of "
                f"{MAX_HEAD_BYTES:,} bytes"
            )
        )

    def _refuse(self, error: ApiError) -> None:
        request_id = secrets.token_hex(8)
        logs.trouble(log, error.type, "refused a connection (%s): %s", request_id, error)
        response = error_response(error)
        headers = [
            *response.raw_headers,
            *ALWAYS,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        head = b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n"])
        self.transport.write(head + bytes(response.body))
        self.transport.close()

    def _head_too_slow(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _is_busy(connection: Connection) -> bool:
    return connection.cycle is not None and not connection.cycle.response_complete
