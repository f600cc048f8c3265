"""The engine as an ASGI application: routes, keys and errors."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.errors import NotFound, Refused
from dreadnode_engine.http import calls, checkpoint_search, rest, uploads, worker_calls
from dreadnode_engine.http.bodies import BodyReader
from dreadnode_engine.http.calls import Call
from dreadnode_engine.http.endpoint import PREFIX, Endpoint
from dreadnode_engine.http.refusals import refused
from dreadnode_engine.service.cleanup import clean_up_forever
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Keyring
from dreadnode_engine.service.recovery import start
from dreadnode_engine.settings import Settings

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    models: Mapping[str, ServedModel],
    keyring: Keyring,
    shared_dir: Path | None = None,
) -> Starlette:
    """Return the engine as an ASGI application; SHARED_DIR makes it a worker of several."""
    endpoint = Endpoint(settings.data_dir, keyring)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine = Engine(settings, models, shared_dir)
        await start(engine)
        app.state.engine, app.state.keyring, app.state.bodies = engine, keyring, BodyReader()
        cleanup = asyncio.create_task(clean_up_forever(engine))
        yield
        cleanup.cancel()
        await endpoint.close()
        await asyncio.to_thread(engine.stop)

    def route(path: str, call: Call, method: str = "POST") -> Route:
        async def answer(request: HttpRequest) -> Response:
            who = keyring.verify(request.headers.get("x-api-key"), time.time())
            return await call(request.app.state.engine, who, request)

        return Route(path, answer, methods=[method])

    posts = calls.CALLS | uploads.CALLS | {"/checkpoints/search": checkpoint_search.search}
    listed = {("POST", path): call for path, call in posts.items()} | dict(rest.CALLS)
    if shared_dir is not None:
        listed |= worker_calls.CALLS
    routes = [route(path, call, method) for (method, path), call in listed.items()]
    routes += [
        Route("/healthz", _health, methods=["GET"]),
        Route("/files/{path:path}", rest.download, methods=["GET"]),
        Route("/uploads/{upload}/{file}", uploads.receive, methods=["PUT"]),
        Route("/sessions/{session}/trace", rest.download_trace, methods=["GET"]),
        Route("/{path:path}", _not_served, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    app = Starlette(
        routes=[
            Mount("/api/v1", routes=routes),
            Route(f"{PREFIX}{{path:path}}", endpoint.forward, methods=["GET", "POST"]),
        ],
        lifespan=lifespan,
        exception_handlers={Refused: refused, sqlite3.OperationalError: _journal_error},
    )
    app.router.redirect_slashes = False
    return app


async def _journal_error(_: HttpRequest, problem: Exception) -> Response:
    """Answer 503 while the journal cannot be written; the SDK retries for some minutes."""
    log.error("the journal cannot be written: %s", problem)
    return JSONResponse(
        {"detail": "The engine cannot write its journal; check whether its disk is full"}, 503
    )


async def _not_served(request: HttpRequest) -> Response:
    request.app.state.keyring.verify(request.headers.get("x-api-key"), time.time())
    path = request.path_params["path"][:100]
    raise NotFound(
        f"This engine does not serve `{request.method} {path}`; docs/explanation/engine.md lists "
        "its calls"
    )


async def _health(_: HttpRequest) -> Response:
    return JSONResponse({"status": "ok"})
