"""Keys: how one is made, how it is kept, and how one for the engine is derived."""

import hashlib
import hmac
import secrets
import time

API_PREFIX = "dn_"
JOB_PREFIX = "dnj_"


def mint(prefix: str) -> str:
    """Return a new key: `prefix` and 256 bits of chance in 43 characters that fit in a URL."""
    return prefix + secrets.token_urlsafe(32)


def sha256(key: str) -> str:
    """Return the form in which a key is stored; 256 random bits need no salt."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def hint(key: str) -> str:
    """Return the few characters by which its owner recognises a key."""
    return key[: key.index("_") + 5] + "…"


def run_key(master: str, subject: str, seconds: int) -> str:
    """Derive the engine's key for one run from the engine's master key.

    The engine verifies the signature, so it needs no list of runs; what was made under one
    subject is invisible to any other.
    """
    claim = f"{subject}.{int(time.time()) + seconds}"
    signature = hmac.new(master.encode(), claim.encode(), hashlib.sha256).hexdigest()
    return f"tml-run.{claim}.{signature}"
