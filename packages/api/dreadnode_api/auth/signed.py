"""Signed URLs: each opens one download for a few minutes without a token.

The URL names the token that requested it and is signed with the stored hash of that token. So it
needs no other secret, and a revoked token invalidates its URLs.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import urlencode

VALID_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Signature:
    """The query of a signed URL: the token's id, the expiry as Unix time, and the signature."""

    token_id: str
    expires: int
    hexdigest: str

    @property
    def query(self) -> str:
        """The query string."""
        return urlencode(
            {"token_id": self.token_id, "expires": self.expires, "signature": self.hexdigest}
        )


def sign(path: str, token_id: str, token_sha256: str) -> Signature:
    """Return a signature that opens PATH for the holder of a token, from now on."""
    expires = int(time.time()) + VALID_SECONDS
    return Signature(token_id, expires, _digest(path, expires, token_sha256))


def is_valid(signature: Signature, path: str, token_sha256: str) -> bool:
    """Return whether a signature opens PATH now, compared in constant time."""
    expected = _digest(path, signature.expires, token_sha256)
    is_right = hmac.compare_digest(signature.hexdigest, expected)
    return is_right and signature.expires >= time.time()


def _digest(path: str, expires: int, token_sha256: str) -> str:
    claim = f"GET {path} {expires}"
    return hmac.new(token_sha256.encode(), claim.encode(), hashlib.sha256).hexdigest()
