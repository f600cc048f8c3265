"""Errors in the shapes of OpenAI's and Anthropic's protocols."""

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from dreadnode_api.errors import ApiError, plain, printable

PREFIX = "/v1/"
"""Paths of these protocols; all others have the documented envelope."""

_OPENAI = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def openai(error: ApiError) -> dict[str, Any]:
    """Return ERROR as OpenAI's clients read it."""
    own = "invalid_request_error" if error.status < 500 else "server_error"
    loc = [str(part) for part in error.errors[0]["loc"][1:]] if error.errors else []
    return {
        "error": {
            "message": printable(plain(error.detail)),
            "type": _OPENAI.get(error.status, own),
            "param": ".".join(loc) or None,
            "code": "model_not_found" if error.status == 404 else None,
        }
    }


def anthropic(error: ApiError) -> dict[str, Any]:
    """Return ERROR as Anthropic's clients read it."""
    own = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC.get(error.status, own)
    message = printable(plain(error.detail))
    return {"type": "error", "error": {"type": kind, "message": message}}


def shaped(error: ApiError, scope: Scope) -> tuple[int, dict[str, Any]] | None:
    """Return status and body of ERROR for a request to one of these protocols, else None.

    These clients know neither 409, which OpenAI's repeats, nor 422.
    """
    if not scope["path"].startswith(PREFIX):
        return None
    status = 400 if error.status in (409, 422) else error.status
    is_anthropic = scope["path"].startswith("/v1/messages")
    is_anthropic |= "anthropic-version" in Headers(scope=scope)
    return status, (anthropic if is_anthropic else openai)(error)
