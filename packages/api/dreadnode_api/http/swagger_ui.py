"""Swagger UI at `/docs`, loaded from this server only.

FastAPI's own page loads its script from a content delivery network. It would not work without the
internet, and a foreign script could read the token that a reader enters.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>dreadnode training: API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" href="/docs/assets/favicon.png">
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
# The browser does not store the token that a reader enters.
START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
# Swagger UI needs inline styles, and images inside its style sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def assets() -> StaticFiles:
    """Return the files of Swagger UI, which are in the package `fastapi-offline`."""
    # The package is located but not imported: its import replaces FastAPI's own application.
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("fastapi_offline")
    return StaticFiles(directory=Path(found.origin).with_name("static"))


@router.get("/docs")
async def page() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.api_route("/openapi.json", methods=["GET", "HEAD"])
async def description(request: Request) -> Response:
    """Return the description of the API.

    It is written once: that takes 10 ms of the event loop, and anybody may ask, without a token.
    """
    state = request.app.state
    if not hasattr(state, "description"):
        text = json.dumps(request.app.openapi(), ensure_ascii=False, separators=(",", ":"))
        state.description = text.encode()
    return Response(state.description, media_type="application/json")


@router.get("/docs/start.js")
async def start() -> Response:
    """Return the script of the page."""
    return Response(START, media_type="text/javascript")
