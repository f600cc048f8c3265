"""Listings of all workers, merged."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from dreadnode_engine.http.paging import MAX_PAGE, cursor, page_of, read_page
from dreadnode_engine.http.rest import trace_headers
from dreadnode_engine.workers import journals
from dreadnode_engine.workers.calls import Call
from dreadnode_engine.workers.forwarding import Forwarded, ask
from dreadnode_engine.workers.incoming import Incoming
from dreadnode_engine.workers.placements import PlacedSession
from dreadnode_engine.workers.router import Router
from dreadnode_engine.workers.supervisor import Worker

PROCESSES = 10
"""Process ids in the trace of one worker."""
SEARCH_LIMIT = 50
"""How many checkpoints a search returns if it does not say."""


async def _gather(
    router: Router, call: Forwarded, read: journals.Read[Any], workers: list[Worker] | None = None
) -> list[Any]:
    """Return what WORKERS, or all of them, respond to CALL; READ finds it in a journal."""
    asked = router.workers if workers is None else workers
    return await asyncio.gather(*(router.journals.ask(worker, call, read) for worker in asked))


async def _items(
    router: Router, worker: Worker, incoming: Incoming, field: str, most: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the first MOST items that WORKER lists under FIELD, and how many it has."""
    read = partial(journals.LISTED[field], who=incoming.who)
    items: list[dict[str, Any]] = []
    total = 1
    while len(items) < min(most, total):
        page = {"limit": min(MAX_PAGE, most - len(items)), "offset": len(items)}
        query = urlencode({**incoming.request.query_params, **page})
        path = incoming.call.target.partition(b"?")[0]
        call = replace(incoming.call, target=path + f"?{query}".encode())
        part = await router.journals.ask(worker, call, read)
        # A journal is read whole.
        items[part["cursor"]["offset"] :] = part[field]
        total = part["cursor"]["total_count"] if part[field] else len(items)
    return items, total


def _merged(field: str, limit: int, time_field: str) -> Call:
    """Return the call that lists FIELD of all workers, newest first by TIME_FIELD."""

    async def call(router: Router, incoming: Incoming) -> Response:
        count, offset = read_page(incoming.request, limit)
        parts = await asyncio.gather(
            *(
                _items(router, worker, incoming, field, max(1, offset + count))
                for worker in router.workers
            )
        )
        items = [item for part, _ in parts for item in part]
        items.sort(key=lambda item: datetime.fromisoformat(item[time_field]), reverse=True)
        total = sum(number for _, number in parts)
        page = items[offset : offset + count]
        return JSONResponse({field: page, "cursor": cursor(count, offset, total)})

    return call


async def _sessions(router: Router, incoming: Incoming) -> Response:
    call = replace(incoming.call, target=b"/api/v1/worker/sessions")
    parts = await _gather(router, call, partial(journals.sessions, who=incoming.who))
    created = {name: time for part in parts for time, name in part}
    newest = sorted(created, key=lambda name: -created[name])
    return page_of(incoming.request, "sessions", newest, 20, str)


async def _search_checkpoints(router: Router, incoming: Incoming) -> Response:
    """Return one page of the checkpoints that match a search, newest first."""
    read = partial(journals.search, who=incoming.who, body=incoming.body)
    parts = await _gather(router, incoming.call, read)
    found = [item for part in parts for item in part["checkpoints"]]
    found.sort(key=lambda item: item["tinker_path"])
    found.sort(key=lambda item: datetime.fromisoformat(item["time"]), reverse=True)
    limit = incoming.fields.get("limit", SEARCH_LIMIT)
    page = found[:limit]
    more = len(found) > len(page) or any(part["next_cursor"] for part in parts)
    last = page[-1] if page and more else None
    return JSONResponse(
        {
            "checkpoints": page,
            "next_cursor": last
            and {"last_created_at": last["time"], "last_checkpoint_uuid": last["tinker_path"]},
        }
    )


async def merged_trace(router: Router, placed: PlacedSession, call: Forwarded) -> Response:
    """Return the trace of a session with the tracks of all its workers."""
    name, workers = placed.record.id, router.workers_of(placed)
    parts = await _gather(router, call, partial(journals.trace, name=name), workers)
    # The copies of a session began at the same time, so all times count from it.
    events = [
        {**event, "pid": event["pid"] + PROCESSES * worker.index}
        for worker, part in zip(workers, parts, strict=True)
        for event in part["traceEvents"]
    ]
    return JSONResponse({**parts[0], "traceEvents": events}, headers=trace_headers(name))


async def _capabilities(router: Router, incoming: Incoming) -> Response:
    """Return every model once, with the memory of the worker that may use most."""
    ready = [worker for worker in router.workers if worker.ready.is_set()]
    workers = ready or [await router.any_worker()]
    models: dict[str, dict[str, Any]] = {}
    for part in await asyncio.gather(*(ask(worker, incoming.call) for worker in workers)):
        for model in part["supported_models"]:
            name = model["model_name"]
            if name not in models or _budget(model) > _budget(models[name]):
                models[name] = model
    return JSONResponse({"supported_models": [models[name] for name in sorted(models)]})


def _budget(model: Mapping[str, Any]) -> int:
    return int(model["memory"]["budget_bytes"])


async def _storage(router: Router, incoming: Incoming) -> Response:
    parts = await _gather(router, incoming.call, partial(journals.storage, who=incoming.who))
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part["data"][0].items():
            total[name] = total.get(name, 0) + value
    return JSONResponse({"data": [total]})


LISTINGS: dict[tuple[str, str], Call] = {
    ("GET", "/training_runs"): _merged("training_runs", 20, "last_request_time"),
    ("GET", "/checkpoints"): _merged("checkpoints", 100, "time"),
    ("POST", "/checkpoints/search"): _search_checkpoints,
    ("GET", "/sessions"): _sessions,
    ("GET", "/get_server_capabilities"): _capabilities,
    ("GET", "/billing/usage/checkpoints/current"): _storage,
}
"""The calls that all workers answer together."""
