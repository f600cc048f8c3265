"""Results: fetched by polling, or cancelled."""

import asyncio
import contextlib
import time

from dreadnode_engine.errors import Gone, NotFound, Refused
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Request


async def retrieve(engine: Engine, who: Principal, request_id: str) -> Request:
    """Return a request with its result, or still queued after the longest wait of a poll."""
    futures = engine.context.futures
    event = futures.add(request_id)
    try:
        request = await _find(engine, who, request_id)
        if request.state == "queued":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), engine.settings.hold_seconds)
            if event.is_set():
                request = await _find(engine, who, request_id)
    finally:
        futures.remove(request_id, event)
    if request.kind == "sample" and request.state == "queued":
        engine.polled_at[request_id] = time.time()
    if request.state == "dropped":
        raise Gone(f"The request `{request_id[:200]}` was dropped: nobody polled for it")
    if request.state != "queued" and request.result is None:
        raise Gone(f"The result of `{request_id[:200]}` is no longer kept")
    if request.state != "queued":
        engine.read_at.setdefault(request_id, time.time())
    return request


async def poll(engine: Engine, who: Principal, request_id: str) -> Request:
    """Return a sampling request without its result unless it is done; its client is there."""
    engine.polled_at[request_id] = time.time()
    return await _find(engine, who, request_id)


async def cancel(engine: Engine, who: Principal, request_id: str) -> None:
    """Drop a sampling request that its client no longer wants; a finished one stays."""
    request = await _find(engine, who, request_id)
    if request.kind != "sample":
        raise Refused("Only sampling requests can be cancelled")
    sampler = engine.context.samplers.get(request.queue)
    if request.state == "queued" and sampler is not None:
        engine.sample_queue(sampler).drop(request_id)


async def _find(engine: Engine, who: Principal, request_id: str) -> Request:
    request = await engine.context.journal.do(queries.find_result, request_id)
    if request is None or not who.can_access(request.owner):
        raise NotFound(f"The request `{request_id[:200]}` does not exist")
    return request
