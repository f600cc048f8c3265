"""Tokens: how one is generated and hashed, and how an engine key is derived for one run."""

import hashlib
import hmac
import secrets
import time

API_PREFIX = "dn_"
JOB_PREFIX = "dnj_"


def generate(prefix: str) -> str:
    """Return a new token: PREFIX and 256 random bits in 43 URL-safe characters."""
    return prefix + secrets.token_urlsafe(32)


def sha256(token: str) -> str:
    """Return the form in which a token is stored; 256 random bits need no salt."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def hint(token: str) -> str:
    """Return the few characters by which its owner recognises a token."""
    return token[: token.index("_") + 5] + "…"


def run_key(master: str, subject: str, seconds: int) -> str:
    """Derive the engine's key for one run from the engine's master key.

    The engine verifies the signature, so it needs no list of runs. What was created under one
    subject is invisible to every other.
    """
    claim = f"{subject}.{int(time.time()) + seconds}"
    signature = hmac.new(master.encode(), claim.encode(), hashlib.sha256).hexdigest()
    return f"tml-run.{claim}.{signature}"
