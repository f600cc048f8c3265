"""The two cookies of the console: that of a session, and that of a sign-in form."""

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response

SESSION_COOKIE, SIGN_IN_COOKIE = "dreadnode_session", "dreadnode_sign_in"
# Browsers accept a cookie of this prefix only over TLS, for the whole host, from the host itself.
HOST_PREFIX = "__Host-"
SIGN_IN_SECONDS = 3600


class Cookies:
    """Reads and sets the cookies.

    Args:
        tls: whether browsers reach the server over TLS. Only cookies with the prefix count then:
            any other one could come from a response without TLS or from another host.
    """

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls

    def session(self, headers: Headers) -> str:
        """Return what the cookie of a session holds; an empty string if there is none."""
        return self._read(headers, SESSION_COOKIE)

    def sign_in(self, headers: Headers) -> str:
        """Return what the cookie of a sign-in form holds; an empty string if there is none."""
        return self._read(headers, SIGN_IN_COOKIE)

    def set(self, response: Response, name: str, value: str) -> None:
        """Set a cookie that scripts cannot read and other sites cannot send."""
        response.set_cookie(
            self._name(name),
            value,
            max_age=SIGN_IN_SECONDS if name == SIGN_IN_COOKIE else None,
            path="/",
            secure=self._tls,
            httponly=True,
            samesite="strict",
        )

    def delete(self, response: Response, name: str) -> None:
        """Have the browser delete a cookie."""
        response.delete_cookie(
            self._name(name), path="/", secure=self._tls, httponly=True, samesite="strict"
        )

    def _read(self, headers: Headers, name: str) -> str:
        sent = headers.get("cookie", "")
        if name not in sent:
            return ""
        # Not the standard library's parser: it drops all cookies if another program's is unusual.
        return cookie_parser(sent).get(self._name(name)) or ""

    def _name(self, name: str) -> str:
        return HOST_PREFIX + name if self._tls else name
