"""Where each call of Tinker's protocol goes."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from dreadnode_engine.http.calls import until_disconnected
from dreadnode_engine.http.rest import session_json, trace_address
from dreadnode_engine.workers import journals
from dreadnode_engine.workers.forwarding import CLIENT_GONE, WorkerAway, relay
from dreadnode_engine.workers.incoming import Incoming
from dreadnode_engine.workers.router import Router
from dreadnode_engine.workers.supervisor import Worker

Call = Callable[[Router, Incoming], Awaitable[Response]]


async def to_any(router: Router, incoming: Incoming) -> Response:
    """Send what any worker can answer; unknown things get their refusal there too."""
    return await relay(await router.any_worker(), incoming.call)


async def to_owner(router: Router, incoming: Incoming, name: str) -> Response:
    """Send a call to the worker that has NAME."""
    worker = await router.locate(name) if name else None
    return await relay(worker or await router.any_worker(), incoming.call)


def of_field(field: str) -> Call:
    """Return a call that goes to the worker of the run or sampler that FIELD names."""

    async def call(router: Router, incoming: Incoming) -> Response:
        return await to_owner(router, incoming, incoming.text(field))

    return call


async def _forward_backward(router: Router, incoming: Incoming) -> Response:
    return await to_owner(router, incoming, await incoming.trained_run())


async def _create_session(router: Router, incoming: Incoming) -> Response:
    key = incoming.request.headers.get("x-idempotency-key")
    session = await router.create_session(incoming.who, incoming.body, key)
    return JSONResponse({"type": "create_session", "session_id": session.id})


async def _heartbeat(router: Router, incoming: Incoming) -> Response:
    placed = router.session(incoming.who, incoming.text("session_id"))
    if placed is None:
        return await to_owner(router, incoming, incoming.text("session_id"))
    # A worker that restarts takes the clients of its sessions as alive.
    workers = [router.workers[index] for index in sorted(placed.workers)]
    ready = [worker for worker in workers if worker.ready.is_set()]
    if not ready:
        return JSONResponse({"type": "session_heartbeat"})
    answers = [await relay(worker, incoming.call) for worker in ready]
    return max(answers, key=lambda answer: answer.status_code)


async def _create_model(router: Router, incoming: Incoming) -> Response:
    return await _place(router, incoming, "train", "model_seq_id", "path")


async def _load_weights(router: Router, incoming: Incoming) -> Response:
    if run := incoming.text("model_id"):
        worker = await router.locate(run) or await router.any_worker()
        await router.lend(incoming.fields.get("path"), worker)
        return await relay(worker, incoming.call)
    return await _place(router, incoming, "train", "model_seq_id", "path")


async def _create_sampler(router: Router, incoming: Incoming) -> Response:
    return await _place(router, incoming, "sample", "sampling_session_seq_id", "model_path")


async def _place(
    router: Router, incoming: Incoming, kind: str, number_field: str, path_field: str
) -> Response:
    """Create a run or sampler on the worker that is best for it.

    Args:
        router: the router.
        incoming: the request.
        kind: the middle part of its id.
        number_field: the field with its number in its session.
        path_field: the field with the checkpoint that it starts from, if it does.
    """
    path, number = incoming.fields.get(path_field), incoming.fields.get(number_field)
    placed = router.session(incoming.who, incoming.text("session_id"))
    if placed is None or type(number) is not int:
        return await to_owner(router, incoming, incoming.text("session_id"))
    name = f"{placed.record.id}:{kind}:{number}"
    base_model = incoming.text("base_model") or await router.base_model_of(path)
    worker, new = await router.place(placed, name, base_model)
    await router.lend(path, worker)
    response = await relay(worker, incoming.call)
    if response.status_code >= 400 and new:
        router.placements.remove_home(name)
    return response


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


async def address_trace(router: Router, incoming: Incoming, name: str) -> Response:
    """Return the address of the trace of a session."""
    placed = router.session(incoming.who, name)
    if placed is None:
        return await to_owner(router, incoming, name)
    return trace_address(incoming.request, placed.record.id)


async def show_run(router: Router, incoming: Incoming, name: str) -> Response:
    """Return a run."""
    return await _read_run(router, incoming, name, journals.run)


async def list_of_run(router: Router, incoming: Incoming, name: str) -> Response:
    """Return the checkpoints of a run."""
    return await _read_run(router, incoming, name, journals.checkpoints_of_run)


async def _read_run(
    router: Router, incoming: Incoming, name: str, read: Callable[..., dict[str, Any]]
) -> Response:
    worker = await router.locate(name) or await router.any_worker()
    found = partial(read, who=incoming.who, name=name)
    return JSONResponse(await router.journals.ask(worker, incoming.call, found))


async def external_urls(router: Router, incoming: Incoming, path: str) -> Response:
    """Return the addresses of the files of an exported checkpoint."""
    return await relay(await router.reader(path), incoming.call)


async def finish_session(router: Router, incoming: Incoming, name: str) -> Response:
    """Finish a session on all of its workers."""
    placed = router.session(incoming.who, name)
    if placed is None:
        return await to_owner(router, incoming, name)
    placed.finish()
    workers = [router.workers[index] for index in sorted(placed.workers)]
    # A worker that does not serve ends the session later, because its client is gone.
    answers = await asyncio.gather(
        *(relay(worker, incoming.call) for worker in workers), return_exceptions=True
    )
    found = [answer for answer in answers if isinstance(answer, Response)]
    if not found:
        raise WorkerAway(workers[0])
    return max(found, key=lambda answer: answer.status_code)


async def show_session(router: Router, incoming: Incoming, name: str) -> Response:
    """Return a session with its runs and samplers on all of its workers."""
    placed = router.session(incoming.who, name)
    if placed is None:
        return await to_owner(router, incoming, name)
    workers = [router.workers[index] for index in sorted(placed.workers)]
    read = partial(journals.session, name=name)
    parts = [await router.journals.ask(worker, incoming.call, read) for worker in workers]
    runs, samplers = (
        sorted({each for part in parts for each in part[field]})
        for field in ("training_run_ids", "sampler_ids")
    )
    return JSONResponse(session_json(placed.record, runs, samplers))


CALLS: dict[str, Call] = {
    "/create_session": _create_session,
    "/session_heartbeat": _heartbeat,
    "/create_model": _create_model,
    "/load_weights": _load_weights,
    "/get_info": of_field("model_id"),
    "/forward_backward": _forward_backward,
    "/optim_step": of_field("model_id"),
    "/save_weights": of_field("model_id"),
    "/save_weights_for_sampler": of_field("model_id"),
    "/save_weights_external": of_field("model_id"),
    "/unload_model": of_field("model_id"),
    "/create_sampling_session": _create_sampler,
    "/asample": _sample,
    "/sample_stream": _sample_stream,
    "/retrieve_future": _retrieve,
    "/cancel_future": _cancel,
    "/weights_info": _weights_info,
    "/external_weights_upload_finish": of_field("upload_id"),
}
"""The calls whose body says where they go; other calls go to any worker."""
