"""The two cookies of the console: that of a session, and that of a sign-in form."""

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response

SESSION, SIGN_IN = "dreadnode_session", "dreadnode_sign_in"
# Browsers accept a cookie of this prefix only over TLS, for the whole host, from the host itself.
HOST_PREFIX = "__Host-"
SIGN_IN_SECONDS = 3600


def session_cookie(headers: Headers) -> str:
    """Return what the cookie of a session holds; an empty string if there is none."""
    return _cookie(headers, SESSION)


def sign_in_cookie(headers: Headers) -> str:
    """Return what the cookie of a sign-in form holds; an empty string if there is none."""
    return _cookie(headers, SIGN_IN)


def _cookie(headers: Headers, name: str) -> str:
    sent = headers.get("cookie", "")
    if name not in sent:
        return ""
    # Not the standard library's parser: it drops all cookies if another program's is unusual.
    found = cookie_parser(sent)
    return found.get(HOST_PREFIX + name) or found.get(name) or ""


def set_cookie(response: Response, name: str, value: str, *, tls: bool) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send."""
    response.set_cookie(
        HOST_PREFIX + name if tls else name,
        value,
        max_age=SIGN_IN_SECONDS if name == SIGN_IN else None,
        path="/",
        secure=tls,
        httponly=True,
        samesite="strict",
    )


def delete_cookies(response: Response, name: str, *, tls: bool) -> None:
    """Have the browser delete a cookie."""
    response.delete_cookie(
        HOST_PREFIX + name if tls else name, path="/", secure=tls, httponly=True, samesite="strict"
    )
