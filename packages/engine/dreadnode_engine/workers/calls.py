"""Where each call of Tinker's protocol goes."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from dreadnode_engine.http.calls import CLIENT_GONE, until_disconnected
from dreadnode_engine.http.rest import session_json, trace_address
from dreadnode_engine.state.checkpoint_files import CheckpointPath
from dreadnode_engine.workers import journals
from dreadnode_engine.workers.forwarding import WorkerAway, relay
from dreadnode_engine.workers.incoming import Incoming
from dreadnode_engine.workers.placements import PlacedSession
from dreadnode_engine.workers.router import Router
from dreadnode_engine.workers.supervisor import Worker

Call = Callable[[Router, Incoming], Awaitable[Response]]


async def to_any(router: Router, incoming: Incoming) -> Response:
    """Send what any worker can answer; unknown things get their refusal there too."""
    return await relay(await router.any_worker(), incoming.call)


async def to_owner(router: Router, incoming: Incoming) -> Response:
    """Send a call to the worker that has what its address names."""
    return await relay(await router.locate_or_any(incoming.name), incoming.call)


def _of_field(field: str) -> Call:
    """Return a call that goes to the worker of the run or sampler that FIELD names."""

    async def call(router: Router, incoming: Incoming) -> Response:
        return await relay(await router.locate_or_any(incoming.text(field)), incoming.call)

    return call


def _of_session(call: Callable[[Router, Incoming, PlacedSession], Awaitable[Response]]) -> Call:
    """Return CALL with the session that the address or the body names.

    One that the router does not know is left to a worker, which refuses it.
    """

    async def found(router: Router, incoming: Incoming) -> Response:
        name = incoming.name or incoming.text("session_id")
        placed = router.session(incoming.who, name)
        if placed is None:
            return await relay(await router.locate_or_any(name), incoming.call)
        return await call(router, incoming, placed)

    return found


async def _forward_backward(router: Router, incoming: Incoming) -> Response:
    return await relay(await router.locate_or_any(await incoming.trained_run()), incoming.call)


async def _create_session(router: Router, incoming: Incoming) -> Response:
    key = incoming.request.headers.get("x-idempotency-key")
    session = await router.create_session(incoming.who, incoming.body, key)
    return JSONResponse({"type": "create_session", "session_id": session.id})


@_of_session
async def _heartbeat(router: Router, incoming: Incoming, placed: PlacedSession) -> Response:
    # A worker that restarts takes the clients of its sessions as alive.
    ready = [worker for worker in router.workers_of(placed) if worker.ready.is_set()]
    if not ready:
        return JSONResponse({"type": "session_heartbeat"})
    answers = [await relay(worker, incoming.call) for worker in ready]
    return max(answers, key=lambda answer: answer.status_code)


def _placed(kind: str, number_field: str, path_field: str) -> Call:
    """Return the call that creates a run or sampler on the worker that is best for it.

    Args:
        kind: the middle part of its id.
        number_field: the field with its number in its session.
        path_field: the field with the checkpoint that it starts from, if it does.
    """

    @_of_session
    async def call(router: Router, incoming: Incoming, placed: PlacedSession) -> Response:
        path, number = incoming.fields.get(path_field), incoming.fields.get(number_field)
        if type(number) is not int:
            owner = await router.locate_or_any(placed.record.id)
            return await relay(owner, incoming.call)
        name = f"{placed.record.id}:{kind}:{number}"
        base_model = incoming.text("base_model") or await router.base_model_of(path)
        worker, new = await router.place(placed, name, base_model)
        await router.lend(path, worker)
        response = await relay(worker, incoming.call)
        if response.status_code >= 400 and new:
            router.placements.remove_home(name)
        return response

    return call


_create_model = _placed("train", "model_seq_id", "path")


async def _load_weights(router: Router, incoming: Incoming) -> Response:
    if run := incoming.text("model_id"):
        worker = await router.locate_or_any(run)
        await router.lend(incoming.fields.get("path"), worker)
        return await relay(worker, incoming.call)
    return await _create_model(router, incoming)


async def _sample(router: Router, incoming: Incoming) -> Response:
    sampler = incoming.text("sampling_session_id")
    seq = incoming.fields.get("seq_id")
    worker = await router.choose_for_sample(sampler, seq) if sampler else None
    return await relay(worker or await router.any_worker(), incoming.call)


async def _sample_stream(router: Router, incoming: Incoming) -> Response:
    path = incoming.fields.get("model_path")
    base_model = incoming.text("base_model") or await router.base_model_of(path)
    worker = await router.any_worker(base_model)
    await router.lend(path, worker)
    return await relay(worker, incoming.call)


async def _retrieve(router: Router, incoming: Incoming) -> Response:
    name = incoming.text("request_id")
    try:
        worker = await _of_request(router, name)
        response = await until_disconnected(relay(worker, incoming.call), incoming.request)
    except WorkerAway as away:
        # The SDK would poll again at once after a 503.
        return JSONResponse(
            {
                "type": "try_again",
                "request_id": name,
                "queue_state": "paused_capacity",
                "queue_state_reason": str(away),
            }
        )
    return response if response is not None else Response(status_code=CLIENT_GONE)


async def _cancel(router: Router, incoming: Incoming) -> Response:
    return await relay(await _of_request(router, incoming.text("request_id")), incoming.call)


async def _of_request(router: Router, name: str) -> Worker:
    return (await router.worker_of_request(name) if name else None) or await router.any_worker()


async def _weights_info(router: Router, incoming: Incoming) -> Response:
    return await relay(await router.reader(incoming.text("tinker_path")), incoming.call)


@_of_session
async def _address_trace(router: Router, incoming: Incoming, placed: PlacedSession) -> Response:
    return trace_address(incoming.request, placed.record.id)


def _of_run(read: Callable[..., dict[str, Any]]) -> Call:
    """Return a call on a run, which READ answers if the worker of the run does not serve."""

    async def call(router: Router, incoming: Incoming) -> Response:
        worker = await router.locate_or_any(incoming.name)
        found = partial(read, who=incoming.who, name=incoming.name)
        return JSONResponse(await router.journals.ask(worker, incoming.call, found))

    return call


async def _external_urls(router: Router, incoming: Incoming) -> Response:
    name = incoming.request.path_params["checkpoint"]
    path = CheckpointPath(incoming.name, "external", name)
    return await relay(await router.reader(str(path)), incoming.call)


@_of_session
async def _finish_session(router: Router, incoming: Incoming, placed: PlacedSession) -> Response:
    placed.finish()
    workers = router.workers_of(placed)
    # A worker that does not serve ends the session later, because its client is gone.
    answers = await asyncio.gather(
        *(relay(worker, incoming.call) for worker in workers), return_exceptions=True
    )
    found = [answer for answer in answers if isinstance(answer, Response)]
    if not found:
        raise WorkerAway(workers[0])
    return max(found, key=lambda answer: answer.status_code)


@_of_session
async def _show_session(router: Router, incoming: Incoming, placed: PlacedSession) -> Response:
    read = partial(journals.session, name=placed.record.id)
    workers = router.workers_of(placed)
    parts = [await router.journals.ask(worker, incoming.call, read) for worker in workers]
    runs, samplers = (
        sorted({each for part in parts for each in part[field]})
        for field in ("training_run_ids", "sampler_ids")
    )
    return JSONResponse(session_json(placed.record, runs, samplers))


_RUN = "/training_runs/{name}"
_EXTERNAL = _RUN + "/checkpoints/external_weights/{checkpoint}/external_weights_urls"

CALLS: dict[tuple[str, str], Call] = {
    ("POST", "/create_session"): _create_session,
    ("POST", "/session_heartbeat"): _heartbeat,
    ("POST", "/create_model"): _create_model,
    ("POST", "/load_weights"): _load_weights,
    ("POST", "/get_info"): _of_field("model_id"),
    ("POST", "/forward_backward"): _forward_backward,
    ("POST", "/optim_step"): _of_field("model_id"),
    ("POST", "/save_weights"): _of_field("model_id"),
    ("POST", "/save_weights_for_sampler"): _of_field("model_id"),
    ("POST", "/save_weights_external"): _of_field("model_id"),
    ("POST", "/unload_model"): _of_field("model_id"),
    ("POST", "/create_sampling_session"): _placed(
        "sample", "sampling_session_seq_id", "model_path"
    ),
    ("POST", "/asample"): _sample,
    ("POST", "/sample_stream"): _sample_stream,
    ("POST", "/retrieve_future"): _retrieve,
    ("POST", "/cancel_future"): _cancel,
    ("POST", "/weights_info"): _weights_info,
    ("POST", "/external_weights_upload_finish"): _of_field("upload_id"),
    ("GET", "/sessions/{name}"): _show_session,
    ("GET", "/sessions/{name}/trace_export"): _address_trace,
    ("POST", "/sessions/{name}/finish"): _finish_session,
    ("GET", "/samplers/{name}"): to_owner,
    ("GET", _RUN): _of_run(journals.run),
    ("GET", _RUN + "/checkpoints"): _of_run(journals.checkpoints_of_run),
    ("GET", _EXTERNAL): _external_urls,
}
"""The calls whose address or body says where they go; other calls go to any worker."""
