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
from dreadnode_engine.http.endpoint import PREFIX, Endpoint, forward
from dreadnode_engine.http.refusals import refused
from dreadnode_engine.http.signed import check_signature
from dreadnode_engine.workers.calls import (
    CALLS,
    address_trace,
    external_urls,
    finish_session,
    list_of_run,
    show_run,
    show_session,
    to_any,
    to_owner,
)
from dreadnode_engine.workers.forwarding import forwarded, relay, relay_upload
from dreadnode_engine.workers.incoming import Incoming, read
from dreadnode_engine.workers.listings import LISTINGS, merged_trace, search_checkpoints
from dreadnode_engine.workers.router import Router

log = logging.getLogger(__name__)


def create_router_app(
    router: Router, endpoint: Endpoint, problem: Callable[[], str | None]
) -> Starlette:
    """Return the router as an ASGI application.

    Args:
        router: chooses the workers.
        endpoint: serves the other protocols, as a client of this address.
        problem: returns why nothing can be accepted now, if so.
    """

    async def tinker(request: HttpRequest) -> Response:
        who = router.keyring.verify(request.headers.get("x-api-key"), time.time())
        path = f"/{request.path_params['path']}"
        if (reason := problem()) is not None:
            return JSONResponse({"detail": reason}, 503)
        return await _route(router, await read(request, who, path), path)

    async def download(request: HttpRequest) -> Response:
        return await relay(await router.reader(request.path_params["path"]), forwarded(request))

    async def upload(request: HttpRequest) -> Response:
        worker = await router.locate(request.path_params["upload"])
        return await relay_upload(worker or await router.any_worker(), request)

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
        Route("/{path:path}", tinker, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    app = Starlette(
        routes=[
            Mount("/api/v1", routes=routes),
            Route(f"{PREFIX}{{path:path}}", forward, methods=["GET", "POST"]),
        ],
        exception_handlers={Refused: refused},
    )
    app.router.redirect_slashes = False
    app.state.bodies, app.state.endpoint, app.state.keyring = BodyReader(), endpoint, router.keyring
    return app


async def _route(router: Router, incoming: Incoming, path: str) -> Response:
    """Send a request to the worker that has what it names, or to all of them."""
    method, segments = incoming.request.method, path.strip("/").split("/")
    if segments[0] == "worker":
        raise NotFound(f"This engine does not serve `{method} {path[:100]}`")
    if method == "GET" and (listing := LISTINGS.get(path)) is not None:
        return await listing(router, incoming)
    if (method, path) == ("POST", "/checkpoints/search"):
        return await search_checkpoints(router, incoming)
    if method == "POST" and (call := CALLS.get(path)) is not None:
        return await call(router, incoming)
    if segments[0] == "sessions" and len(segments) == 2 and method == "GET":
        return await show_session(router, incoming, segments[1])
    if segments[0] == "sessions" and segments[2:] == ["trace_export"] and method == "GET":
        return await address_trace(router, incoming, segments[1])
    if segments[0] == "sessions" and segments[2:] == ["finish"] and method == "POST":
        return await finish_session(router, incoming, segments[1])
    if segments[0] == "training_runs" and method == "GET":
        if len(segments) == 2:
            return await show_run(router, incoming, segments[1])
        if segments[2:] == ["checkpoints"]:
            return await list_of_run(router, incoming, segments[1])
        if segments[2:4] == ["checkpoints", "external_weights"]:
            path = f"tinker://{segments[1]}/{'/'.join(segments[3:5])}"
            return await external_urls(router, incoming, path)
    if segments[0] in ("sessions", "samplers", "training_runs") and len(segments) > 1:
        return await to_owner(router, incoming, segments[1])
    return await to_any(router, incoming)
