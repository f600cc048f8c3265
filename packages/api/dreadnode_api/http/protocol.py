"""HTTP/1.1 as uvicorn speaks it, with our own refusal of what cannot be read as a request."""

import asyncio
import logging
import secrets
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreadnode_api.errors import Malformed
from dreadnode_api.http.error_responses import answer
from dreadnode_api.http.security_headers import ALWAYS

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""The request line and all headers together, give or take what one read from the socket brings."""


class Gathered(asyncio.Transport):
    """A transport that sends what is written in one turn of the event loop in one piece.

    uvicorn writes the head of an answer and its body one after the other. Apart, they cost two
    calls of the system here and wake the client twice.
    """

    MOST = 64 * 1024
    """So many bytes do not wait for more."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send DATA at the end of this turn, or now if it is large."""
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes >= self.MOST:
            self._flush()

    def _flush(self) -> None:
        if self._pieces:
            whole = b"".join(self._pieces)
            self._pieces, self._bytes = [], 0
            self._transport.write(whole)

    def close(self) -> None:
        """Send what is left, and close the connection."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection without sending what is left."""
        self._pieces, self._bytes = [], 0
        self._transport.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection over to another protocol."""
        self._flush()
        self._transport.set_protocol(protocol)

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take no more from the client for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""
        return self._transport.get_extra_info(name, default)


class Protocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(Gathered(transport, self.loop))

    def send_400_response(self, msg: str) -> None:
        """Refuse in the documented envelope, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # An answer has begun: only cutting it off is honest.
            return
        request_id = secrets.token_hex(8)
        log.warning("refused what is no request", extra={"fields": {"request_id": request_id}})
        refused = answer(
            Malformed(
                "This is no HTTP request that can be read; its head may be larger than the "
                f"{MAX_HEAD_BYTES:,} bytes that are taken"
            )
        )
        headers = [
            *refused.raw_headers,
            *ALWAYS,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=refused.status_code, headers=headers),
            h11.Data(data=bytes(refused.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
