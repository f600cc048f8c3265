"""Errors as pages: one plain sentence in the layout, or in a fragment of it."""

import re
from http import HTTPStatus
from urllib.parse import quote

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from dreadnode_api.console.deps import SIGN_IN
from dreadnode_api.console.layout import HEADERS, redirect, render_page
from dreadnode_api.errors import ApiError, Unauthenticated

# Programs ask these, some of them with the headers of a browser.
_NOT_PAGES = re.compile(r"^/(api|v1|docs|health|metrics|openapi\.json|static)(/|$)")
# The browser's own navigation to itself sends the cookie, which `SameSite=Strict` holds back when a
# link of another site was followed.
AGAIN = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>…</title>'
)


def error_page(error: ApiError, scope: Scope) -> Response | None:
    """Return the page of ERROR, or None if the request SCOPE does not want a page."""
    headers = Headers(scope=scope)
    if _NOT_PAGES.match(scope["path"]) or "text/html" not in headers.get("accept", ""):
        return None
    request = Request(scope)
    is_fragment = "hx-request" in headers
    if isinstance(error, Unauthenticated) and not is_fragment and request.method == "GET":
        return _to_sign_in(request, headers)
    state = scope.get("state", {})
    response = render_page(
        request,
        "error_fragment.html" if is_fragment else "error.html",
        status=error.status,
        title=HTTPStatus(error.status).phrase.capitalize(),
        detail=error.detail,
        caller=state.get("caller"),
        workspace=state.get("workspace"),
    )
    response.headers.update(error.headers)
    return response


def _to_sign_in(request: Request, headers: Headers) -> Response:
    had_session = bool(request.app.state.cookies.session(headers))
    if not had_session and headers.get("sec-fetch-site") == "cross-site":
        return HTMLResponse(AGAIN, headers=HEADERS)
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    ended = "&ended=true" if had_session else ""
    return redirect(f"{SIGN_IN}?to={quote(path, safe='/')}{ended}")
