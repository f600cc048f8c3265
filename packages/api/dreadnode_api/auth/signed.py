"""Addresses that open one download for a few minutes, for clients that follow them without a key.

Such an address names the key that asked for it, and is signed with what the database keeps of that
key. So no secret is needed for it, and a key that is revoked takes its addresses with it.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query

SECONDS = 300


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an address carries: whose it is, until when it is good (Unix time), and the proof."""

    key: str
    expires: int
    signature: str

    @property
    def query(self) -> str:
        """The query of the address."""
        return urlencode({"key": self.key, "expires": self.expires, "signature": self.signature})


def ticket(path: str, token_id: str, token_sha256: str) -> Ticket:
    """Return what opens `path` for the holder of a key, from now on."""
    expires = int(time.time()) + SECONDS
    return Ticket(token_id, expires, _signature(path, expires, token_sha256))


def is_good(shown: Ticket, path: str, token_sha256: str) -> bool:
    """Return whether a ticket opens `path` now; the time this takes tells nothing of the proof."""
    right = _signature(path, shown.expires, token_sha256)
    return hmac.compare_digest(shown.signature, right) and shown.expires >= time.time()


def _signature(path: str, expires: int, token_sha256: str) -> str:
    claim = f"GET {path} {expires}"
    return hmac.new(token_sha256.encode(), claim.encode(), hashlib.sha256).hexdigest()


async def shown(
    key: Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z0-9-]+$")] = None,
    expires: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    signature: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
) -> Ticket | None:
    """Return the ticket in a request's query, if a whole one is there."""
    if key is None or expires is None or signature is None:
        return None
    return Ticket(key, expires, signature)
