"""Errors in the shapes of OpenAI's and Anthropic's protocols."""

from typing import Any

from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Scope

from dreadnode_api.errors import ApiError, plain, printable

_STATUSES = {
    400: "Invalid request",
    401: "Authentication failed",
    403: "Access forbidden",
    404: "The model does not exist",
    422: "Not sent: an invalid field is a 400",
    426: "Upgrade required",
    429: "Rate limited",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Try again later",
    504: "Gateway timeout",
}


class OpenAIProblem(BaseModel):
    """What is wrong, in OpenAI's shape."""

    message: str = Field(description="Human-readable error message")
    type: str
    param: str | None = Field(description="The field that is wrong")
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIProblem


class AnthropicProblem(BaseModel):
    """What is wrong, in Anthropic's shape."""

    type: str
    message: str = Field(description="Human-readable error message")


class AnthropicErrorResponse(BaseModel):
    """An error in Anthropic's shape."""

    type: str
    error: AnthropicProblem


OPENAI_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorResponse | AnthropicErrorResponse, "description": text}
    for status, text in _STATUSES.items()
}
ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": AnthropicErrorResponse, "description": text}
    for status, text in _STATUSES.items()
}
"""The documented error responses, for the `responses=` of a route."""

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

    Both makers answer 400 to every invalid request, and OpenAI's client repeats a 409.
    """
    if not scope["path"].startswith(PREFIX):
        return None
    status = 400 if error.status in (409, 422) else error.status
    is_anthropic = scope["path"].startswith("/v1/messages")
    is_anthropic |= "anthropic-version" in Headers(scope=scope)
    return status, (anthropic if is_anthropic else openai)(error)
