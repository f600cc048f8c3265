"""Refusals as responses."""

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from dreadnode_engine.errors import Refused
from dreadnode_engine.http.endpoint import PREFIX

_TYPES = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}


async def refused(request: HttpRequest, refusal: Exception) -> Response:
    """Return the response of a refused request: its status, and why."""
    status = refusal.status if isinstance(refusal, Refused) else 400
    if not request.url.path.startswith(PREFIX):
        return JSONResponse({"detail": str(refusal)}, status)
    # OpenAI's and Anthropic's clients both read this shape.
    kind = _TYPES.get(status, "invalid_request_error")
    error = {"type": kind, "message": str(refusal), "param": None, "code": None}
    return JSONResponse({"type": "error", "error": error}, status)
