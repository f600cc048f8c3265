"""Refusals as responses."""

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from dreadnode_engine.errors import Refused
from dreadnode_engine.http import endpoint


async def refused(request: HttpRequest, refusal: Exception) -> Response:
    """Return the response of a refused request: its status, and why."""
    status = refusal.status if isinstance(refusal, Refused) else 400
    if request.url.path.startswith(endpoint.PREFIX):
        return endpoint.refusal_response(str(refusal), status)
    return JSONResponse({"detail": str(refusal)}, status)
