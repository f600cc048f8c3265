"""The router as an ASGI application."""

import logging
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from dreadnode_engine.errors import NotFound, Refused
from dreadnode_engine.http.bodies import BodyReader
from dreadnode_engine.http.endpoint import PREFIX, Endpoint
from dreadnode_engine.http.refusals import refused
from dreadnode_engine.http.signed import check_signature
from dreadnode_engine.workers.calls import CALLS, Call, to_any, to_owner
from dreadnode_engine.workers.forwarding import forwarded, relay, relay_upload
from dreadnode_engine.workers.incoming import Incoming, read
from dreadnode_engine.workers.listings import LISTINGS, merged_trace
from dreadnode_engine.workers.router import Router

log = logging.getLogger(__name__)

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


def create_router_app(
    router: Router, endpoint: Endpoint, problem: Callable[[], str | None]
) -> Starlette:
    """Return the router as an ASGI application.

    Args:
        router: chooses the workers.
        endpoint: serves the other protocols, as a client of this address.
        problem: returns why nothing can be accepted now, if so.
    """

    def route(path: str, call: Call, *methods: str) -> Route:
        async def answer(request: HttpRequest) -> Response:
            who = router.keyring.verify(request.headers.get("x-api-key"), time.time())
            if (reason := problem()) is not None:
                return JSONResponse({"detail": reason}, 503)
            return await call(router, await read(request, who, path))

        return Route(path, answer, methods=methods)

    async def download(request: HttpRequest) -> Response:
        return await relay(await router.reader(request.path_params["path"]), forwarded(request))

    async def upload(request: HttpRequest) -> Response:
        worker = await router.locate_or_any(request.path_params["upload"])
        return await relay_upload(worker, request)

    async def trace(request: HttpRequest) -> Response:
        placed = router.placements.sessions.get(request.path_params["session"])
        if placed is None:
            return await relay(await router.any_worker(), forwarded(request))
        check_signature(
            request, f"sessions/{placed.record.id}/trace", "download", "request a new one"
        )
        return await merged_trace(router, placed, forwarded(request))

    async def health(_: HttpRequest) -> Response:
        states = [
            {"worker": w.index, "ready": w.ready.is_set(), "problem": w.problem}
            for w in router.workers
        ]
        return JSONResponse({"status": "ok", "workers": states})

    routes = [
        Route("/healthz", health, methods=["GET"]),
        Route("/files/{path:path}", download, methods=["GET"]),
        Route("/uploads/{upload}/{file}", upload, methods=["PUT"]),
        Route("/sessions/{session}/trace", trace, methods=["GET"]),
        *(route(path, call, method) for (method, path), call in (CALLS | LISTINGS).items()),
        route("/training_runs/{name}/{rest:path}", to_owner, *METHODS),
        route("/worker/{rest:path}", _not_served, *METHODS),
        route("/{path:path}", to_any, *METHODS),
    ]
    app = Starlette(
        routes=[
            Mount("/api/v1", routes=routes),
            Route(f"{PREFIX}{{path:path}}", endpoint.forward, methods=["GET", "POST"]),
        ],
        exception_handlers={Refused: refused},
    )
    app.router.redirect_slashes = False
    app.state.bodies, app.state.keyring = BodyReader(), router.keyring
    return app


async def _not_served(router: Router, incoming: Incoming) -> Response:
    """Refuse the calls between router and workers."""
    request = incoming.request
    path = f"/worker/{request.path_params['rest']}"
    raise NotFound(f"This engine does not serve `{request.method} {path[:100]}`")
