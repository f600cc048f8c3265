"""Security headers of every response: no scripts, frames, content sniffing or referrers."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A page that needs more sets its own policy, which is kept. No header allows other origins to read
# responses, so browsers keep the scripts of other sites out.
ALWAYS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_TLS = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeaders:
    """Adds the headers that a response does not have."""

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self.app = app
        self._headers = (*ALWAYS, _TLS) if tls else ALWAYS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                held = {name for name, _ in headers}
                added = [each for each in self._headers if each[0] not in held]
                message["headers"] = [*headers, *added]
            await send(message)

        await self.app(scope, receive, guarded)
