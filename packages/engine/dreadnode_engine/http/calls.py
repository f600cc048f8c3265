"""The calls of Tinker's protocol that train and sample."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dreadnode_engine.errors import Refused
from dreadnode_engine.http.bodies import read_body, read_json
from dreadnode_engine.protocol.protobuf import MAX_BODY, MEDIA_TYPE, parse_forward_backward
from dreadnode_engine.protocol.validation import json_object, string_field
from dreadnode_engine.service import results, sampling, sessions, streaming, training
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state.records import Request

CLIENT_GONE = 499
"""The status that nobody reads any more."""
T = TypeVar("T")
Close = Callable[[], Coroutine[Any, Any, None]]
Call = Callable[[Engine, Principal, HttpRequest], Awaitable[Response]]


def _future(request: Request, **more: Any) -> Response:
    """Return the future of REQUEST, which the client polls."""
    fields = {"request_id": request.id, **more}
    if request.kind != "sample":
        fields["model_id"] = request.queue
    return JSONResponse(fields)


async def _client_config(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    # Flags that need further routes stay off; these two are the SDK's defaults.
    return JSONResponse({"pjwt_auth_enabled": False, "parallel_fwdbwd_chunks": True})


async def _dynamic_config(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return JSONResponse({"refresh_interval_sec": 300, "sample_cancel_enabled": True})


async def _telemetry(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await read_body(request)
    return JSONResponse({"status": "accepted"})


async def _create_session(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    key = request.headers.get("x-idempotency-key")
    session = await sessions.create_session(engine, who, await read_body(request), key)
    return JSONResponse({"type": "create_session", "session_id": session.id})


async def _heartbeat(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    sessions.heartbeat(engine, who, string_field(await read_json(request), "session_id"))
    return JSONResponse({"type": "session_heartbeat"})


async def _create_model(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return _future(await training.create_model(engine, who, await read_body(request)))


async def _load_weights(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    body, token = await read_body(request), None
    if b"weights_access_token" in body:
        # The token is another owner's key, which the journal must not keep.
        fields = json_object(body)
        token = fields.pop("weights_access_token", None)
        body = json.dumps(fields).encode()
    reader = who
    if token is not None:
        if not isinstance(token, str):
            raise Refused("The field `weights_access_token` must be a key of this engine")
        reader = request.app.state.keyring.verify(token, time.time())
    return _future(await training.load_weights(engine, who, body, reader))


async def _get_info(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    queue = engine.run(who, string_field(await read_json(request), "model_id"))
    run, served = queue.run, engine.base_model(queue.run.base_model)
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
        raise Refused(f"forward_backward takes {MEDIA_TYPE}; use tinker SDK 0.25 or newer")
    encoding = request.headers.get("content-encoding")
    body = await read_body(request, MAX_BODY)
    # In a thread: decompressing and hashing a large body would stop the event loop.
    run, seq, body = await asyncio.to_thread(_parsed, body, encoding)
    accepted = await training.submit(engine, who, run, seq, "forward_backward", body)
    return _future(accepted)


def _parsed(body: bytes, encoding: str | None) -> tuple[str, int, bytes]:
    message = parse_forward_backward(body, encoding)
    # Deterministic, because equal requests must have equal bytes: maps are sorted.
    return message.model_id, message.seq_id, message.SerializeToString(deterministic=True)


def _operation(kind: str) -> Call:
    async def call(engine: Engine, who: Principal, request: HttpRequest) -> Response:
        body = await read_body(request)
        fields = json_object(body)
        run, seq = string_field(fields, "model_id"), fields.get("seq_id")
        if not isinstance(seq, int) or isinstance(seq, bool):
            raise Refused("The field `seq_id` must be an integer")
        return _future(await training.submit(engine, who, run, seq, kind, body))

    return call


async def _unload_model(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    run = string_field(await read_json(request), "model_id")
    await training.unload(engine, who, run)
    return JSONResponse({"model_id": run, "type": "unload_model"})


async def _create_sampler(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    sampler = await sampling.create_sampler(engine, who, await read_body(request))
    return JSONResponse({"type": "create_sampling_session", "sampling_session_id": sampler.id})


async def _sample(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    accepted, sequences = await sampling.sample(engine, who, await read_body(request))
    return _future(accepted, sample_sequence_ids=sequences)


async def _sample_stream(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    stream = await streaming.open_stream(engine, who, await read_json(request))
    return ClosingResponse(_lines(stream), stream.close, media_type="application/x-ndjson")


async def _lines(stream: streaming.Stream) -> AsyncIterator[str]:
    """Yield the parts of STREAM as JSON lines."""
    async for part in stream.parts():
        yield json.dumps(part) + "\n"


class ClosingResponse(StreamingResponse):
    """A streamed response whose source is closed with it, also when the client disconnects.

    Args:
        content: The parts of the body.
        close: Closes their source.
        more: The arguments of a `StreamingResponse`.
    """

    def __init__(self, content: AsyncIterator[str | bytes], close: Close, **more: Any) -> None:
        super().__init__(content, **more)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts, and close the source in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A task of its own: this one may be cancelled.
            await asyncio.shield(asyncio.create_task(self._close()))


async def _retrieve(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    name = string_field(await read_json(request), "request_id")
    found = await until_disconnected(results.retrieve(engine, who, name), request)
    if found is None:
        return Response(status_code=CLIENT_GONE)
    if found.state == "queued":
        return JSONResponse({"type": "try_again", "request_id": name, "queue_state": "active"})
    return Response(found.result, media_type=found.media)


async def until_disconnected(work: Coroutine[Any, Any, T], request: HttpRequest) -> T | None:
    """Await WORK; cancel it and return None if the client of REQUEST disconnects before."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()


async def _disconnect(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await results.cancel(engine, who, string_field(await read_json(request), "request_id"))
    return Response(status_code=204)


CALLS: dict[str, Call] = {
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
    "/sample_stream": _sample_stream,
    "/retrieve_future": _retrieve,
    "/cancel_future": _cancel,
}
