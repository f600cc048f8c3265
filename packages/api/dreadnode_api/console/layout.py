"""Renders templates: autoescaped, with the headers of a page, compressed for clients that can."""

import gzip
import json
from functools import cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader
from starlette.responses import RedirectResponse, Response

from dreadnode_api.auth.sessions import form_token
from dreadnode_api.console import text
from dreadnode_api.console.assets import accepts_gzip, static

# uPlot and htmx set styles through the CSSOM, which a policy without 'unsafe-inline' allows.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
COMPRESSED_FROM = 1000
"""Bytes from which a response is compressed. The cookie is `SameSite=Strict`, so another site
cannot make a browser load pages and measure them."""


@cache
def environment() -> Environment:
    """Return what loads and renders templates."""
    made = Environment(
        loader=PackageLoader("dreadnode_api.console"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["static"] = static
    made.filters.update(text.FILTERS)
    return made


def render_page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Return a page, or a fragment of one, of TEMPLATE."""
    known = {
        "caller": None,
        "workspace": None,
        "navigation": request.app.state.navigation,
        "here": request.url.path,
        "form_token": form_token(request.app.state.cookies.session(request.headers)),
    }
    body = environment().get_template(template).render(known | context)
    return compressed(request, body, "text/html", status)


def json_response(request: Request, content: Any) -> Response:
    """Return JSON for a script of a page."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return compressed(request, body, "application/json", 200)


def compressed(request: Request, body: str | bytes, media_type: str, status: int) -> Response:
    """Return a response that no cache keeps, compressed if it is large and the client can."""
    content = body if isinstance(body, bytes) else body.encode("utf-8", "replace")
    headers = HEADERS | {"Vary": "Accept-Encoding"}
    if len(content) >= COMPRESSED_FROM and accepts_gzip(request):
        content = gzip.compress(content, 4, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(content, status_code=status, media_type=media_type, headers=headers)


def redirect(path: str) -> Response:
    """Return the response that has a browser load PATH after a form was sent."""
    return RedirectResponse(path, 303, headers=HEADERS)
