"""HTTP in and out: the routes of Tinker's protocol, and nothing that computes."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.engine import Engine
from dreadnode_engine.errors import NotFound, Refused
from dreadnode_engine.http import rest
from dreadnode_engine.http.keys import Keyring, Principal
from dreadnode_engine.http.protobuf import MEDIA_TYPE, canonical, parse_forward_backward
from dreadnode_engine.http.validation import body_of, fields_of, json_object, text_in
from dreadnode_engine.state.context import Settings
from dreadnode_engine.state.housekeeping import keep_house
from dreadnode_engine.state.records import Request

log = logging.getLogger(__name__)

Call = Callable[[Engine, Principal, HttpRequest], Awaitable[Response]]


def create_app(settings: Settings, models: dict[str, ServedModel], keyring: Keyring) -> Starlette:
    """Return the engine as an ASGI application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine = Engine(settings, models)
        await engine.start()
        app.state.engine, app.state.keyring = engine, keyring
        house = asyncio.create_task(keep_house(engine))
        yield
        house.cancel()
        await asyncio.to_thread(engine.stop)

    def route(path: str, call: Call, method: str = "POST") -> Route:
        async def endpoint(request: HttpRequest) -> Response:
            who = keyring.verify(request.headers.get("x-api-key"), time.time())
            return await call(request.app.state.engine, who, request)

        return Route(path, endpoint, methods=[method])

    routes = [route(path, call) for path, call in _CALLS.items()]
    routes += [route(path, call, method) for (method, path), call in rest.CALLS.items()]
    routes += [
        Route("/healthz", _health, methods=["GET"]),
        Route("/files/{path:path}", rest.download, methods=["GET"]),
        Route("/{path:path}", _not_served, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    app = Starlette(
        routes=[Mount("/api/v1", routes=routes)],
        lifespan=lifespan,
        exception_handlers={Refused: _refused, sqlite3.OperationalError: _disk_trouble},
    )
    app.router.redirect_slashes = False
    return app


async def _refused(_: HttpRequest, refusal: Exception) -> Response:
    status = refusal.status if isinstance(refusal, Refused) else 400
    return JSONResponse({"detail": str(refusal)}, status)


async def _disk_trouble(_: HttpRequest, problem: Exception) -> Response:
    """Say that nothing can be promised now; the SDK asks again for some minutes."""
    log.error("the journal cannot be written: %s", problem)
    return JSONResponse(
        {"detail": "The engine cannot write its journal; its disk may be full"}, 503
    )


async def _not_served(request: HttpRequest) -> Response:
    request.app.state.keyring.verify(request.headers.get("x-api-key"), time.time())
    path = request.path_params["path"][:100]
    raise NotFound(
        f"This engine has no call `{request.method} {path}`; docs/explanation/engine.md lists them"
    )


async def _health(_: HttpRequest) -> Response:
    return JSONResponse({"status": "ok"})


def _promise(request: Request, **more: Any) -> Response:
    fields = {"request_id": request.id, **more}
    if request.kind != "sample":
        fields["model_id"] = request.lane
    return JSONResponse(fields)


async def _client_config(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    # Everything that would need further routes stays off; these are the SDK's own defaults.
    return JSONResponse({"pjwt_auth_enabled": False, "parallel_fwdbwd_chunks": True})


async def _dynamic_config(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return JSONResponse({"refresh_interval_sec": 300, "sample_cancel_enabled": True})


async def _telemetry(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await body_of(request)
    return JSONResponse({"status": "accepted"})


async def _create_session(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    key = request.headers.get("x-idempotency-key")
    session = await engine.create_session(who, await body_of(request), key)
    return JSONResponse({"type": "create_session", "session_id": session.id})


async def _heartbeat(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    engine.heartbeat(who, text_in(await fields_of(request), "session_id"))
    return JSONResponse({"type": "session_heartbeat"})


async def _create_model(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return _promise(await engine.create_model(who, await body_of(request)))


async def _load_weights(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return _promise(await engine.load_weights(who, await body_of(request)))


async def _get_info(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    lane = engine.run(who, text_in(await fields_of(request), "model_id"))
    run, served = lane.run, engine.served(lane.run.base_model)
    data = {
        "arch": served.architecture,
        "model_name": served.id,
        "tokenizer_id": str(served.path),
    }
    return JSONResponse(
        {
            "type": "get_info",
            "model_id": run.id,
            "model_name": served.id,
            "model_data": data,
            "is_lora": True,
            "lora_rank": run.rank,
            "optimizer_config": {"type": "adamw"},
        }
    )


async def _forward_backward(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    if request.headers.get("content-type", "").split(";")[0] != MEDIA_TYPE:
        raise Refused(f"forward_backward takes {MEDIA_TYPE}; use the tinker SDK 0.25 or newer")
    encoding = request.headers.get("content-encoding")
    message = parse_forward_backward(await body_of(request), encoding)
    return _promise(
        await engine.submit(
            who, message.model_id, message.seq_id, "forward_backward", canonical(message)
        )
    )


def _operation(kind: str) -> Call:
    async def call(engine: Engine, who: Principal, request: HttpRequest) -> Response:
        body = await body_of(request)
        fields = json_object(body)
        run, seq = text_in(fields, "model_id"), fields.get("seq_id")
        if not isinstance(seq, int) or isinstance(seq, bool):
            raise Refused("The field `seq_id` must be an integer")
        return _promise(await engine.submit(who, run, seq, kind, body))

    return call


async def _unload_model(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    run = text_in(await fields_of(request), "model_id")
    await engine.unload(who, run)
    return JSONResponse({"model_id": run, "type": "unload_model"})


async def _create_sampler(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    sampler = await engine.create_sampler(who, await body_of(request))
    return JSONResponse({"type": "create_sampling_session", "sampling_session_id": sampler.id})


async def _sample(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    accepted, sequences = await engine.sample(who, await body_of(request))
    return _promise(accepted, sample_sequence_ids=sequences)


async def _retrieve(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    name = text_in(await fields_of(request), "request_id")
    found = await _unless_gone(engine.retrieve(who, name), request)
    if found is None:
        return Response(status_code=499)
    if found.state == "queued":
        return JSONResponse({"type": "try_again", "request_id": name, "queue_state": "active"})
    return Response(found.result, media_type=found.media)


async def _unless_gone(
    answer: Coroutine[Any, Any, Request], request: HttpRequest
) -> Request | None:
    """Await ANSWER, but no longer than the client of REQUEST is there to read it."""
    answering, gone = asyncio.create_task(answer), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        gone.cancel()


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await engine.cancel(who, text_in(await fields_of(request), "request_id"))
    return Response(status_code=204)


_CALLS: dict[str, Call] = {
    "/client/config": _client_config,
    "/client/dynamic_config": _dynamic_config,
    "/telemetry": _telemetry,
    "/create_session": _create_session,
    "/session_heartbeat": _heartbeat,
    "/create_model": _create_model,
    "/load_weights": _load_weights,
    "/get_info": _get_info,
    "/forward_backward": _forward_backward,
    "/optim_step": _operation("optim_step"),
    "/save_weights": _operation("save_weights"),
    "/save_weights_for_sampler": _operation("save_weights_for_sampler"),
    "/save_weights_external": _operation("save_weights_external"),
    "/unload_model": _unload_model,
    "/create_sampling_session": _create_sampler,
    "/asample": _sample,
    "/retrieve_future": _retrieve,
    "/cancel_future": _cancel,
}
