"""Signed addresses: they open one thing without a key, for a while."""

import time

from starlette.requests import Request as HttpRequest

from dreadnode_engine.errors import Unauthorized


def signed_address(request: HttpRequest, path: str, name: str, expires: int) -> str:
    """Return the address of PATH that opens NAME without a key until EXPIRES."""
    signature = request.app.state.keyring.sign_path(name, expires)
    root = str(request.base_url).rstrip("/")
    return f"{root}/api/v1{path}?expires={expires}&signature={signature}"


def check_signature(request: HttpRequest, name: str, kind: str, remedy: str) -> None:
    """Refuse an address for NAME that is not signed, or no longer valid.

    KIND and REMEDY complete the error: what the address is for, and what to do.
    """
    query = request.query_params
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not request.app.state.keyring.verifies_path(name, expires, signature, time.time()):
        raise Unauthorized(f"This {kind} address is not signed or has expired; {remedy}")
