"""The sign-in with an API token, and the sign-out."""

import re
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from dreadnode_api.auth.callers import Authenticator, session_key
from dreadnode_api.auth.cookies import SESSION_COOKIE, SIGN_IN_COOKIE, Cookies
from dreadnode_api.auth.rates import Buckets, network
from dreadnode_api.auth.sessions import end_session, form_token, new_secret, start_session
from dreadnode_api.console.deps import SIGN_IN, AnyPage
from dreadnode_api.console.layout import redirect, render_page
from dreadnode_api.errors import ApiError, Unauthenticated
from dreadnode_api.http.deps import InDatabase

router = APIRouter()

# A path of this site: `//host` and `/\host` are addresses of others.
_LOCAL = re.compile(r"^/(?![/\\])[^\s\\]*$")

To = Annotated[str, Query(max_length=2000)]


@router.get(SIGN_IN)
async def form(
    request: Request,
    to: To = "/",
    ended: bool = False,
) -> Response:
    """Show the form."""
    message = None
    if ended:
        message = (
            "Your session has ended, because it or its API token has expired or was revoked. "
            "Sign in again"
        )
    return _form(request, to, message)


def _form(request: Request, path: str, message: str | None, status: int = 200) -> Response:
    cookies: Cookies = request.app.state.cookies
    secret = cookies.sign_in(request.headers) or new_secret()
    response = render_page(
        request,
        "sign_in.html",
        status=status,
        to=path,
        message=message,
        form_token=form_token(secret),
    )
    cookies.set(response, SIGN_IN_COOKIE, secret)
    return response


@router.post(SIGN_IN)
async def sign_in(
    request: Request,
    database: InDatabase,
    token: Annotated[str, Form(max_length=500)] = "",
    to: Annotated[str, Form(max_length=2000)] = "/",
    form_token: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Start a session, or show the form again with what is wrong."""
    authenticator: Authenticator = request.app.state.authenticator
    invented: Buckets = request.app.state.invented
    address = network(request.scope)
    try:
        invented.check(address)
        if not token.strip():
            return _form(request, to, "Enter an API token", 422)
        try:
            caller = await authenticator.holder(token.strip())
        except Unauthenticated:
            invented.take(address)
            raise
        async with database.writing() as session:
            secret = await start_session(session, caller)
    except ApiError as error:
        response = _form(request, to, error.detail, error.status)
        response.headers.update(error.headers)
        return response
    response = redirect(to if _LOCAL.match(to) else "/")
    cookies: Cookies = request.app.state.cookies
    cookies.set(response, SESSION_COOKIE, secret)
    cookies.delete(response, SIGN_IN_COOKIE)
    return response


@router.post("/sign-out")
async def sign_out(page: AnyPage, database: InDatabase) -> Response:
    """End the session."""
    cookies: Cookies = page.request.app.state.cookies
    secret = cookies.session(page.request.headers)
    async with database.writing() as session:
        await end_session(session, secret)
    authenticator: Authenticator = page.request.app.state.authenticator
    authenticator.drop(session_key(secret))
    response = redirect(SIGN_IN)
    cookies.delete(response, SESSION_COOKIE)
    return response
