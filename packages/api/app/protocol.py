"""HTTP/1.1 as uvicorn speaks it, with our own refusal of what cannot be read as a request."""

import logging
import secrets

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.answers import answer
from app.errors import Malformed
from app.headers import ALWAYS

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""The request line and all headers together, give or take what one read from the socket brings."""


class Protocol(H11Protocol):
    """One connection."""

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
