"""The REST calls of the protocol: list, read and change sessions, runs and checkpoints."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from dreadnode_engine.errors import NotFound, Refused
from dreadnode_engine.http.bodies import read_json
from dreadnode_engine.http.calls import Call
from dreadnode_engine.http.paging import page_of
from dreadnode_engine.http.signed import check_signature, signed_address
from dreadnode_engine.protocol.validation import string_field
from dreadnode_engine.service.checkpoints import delete_checkpoint, list_checkpoints, set_ttl
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.service.sessions import finish_session
from dreadnode_engine.service.traces import open_trace
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import CheckpointPath, parse_path
from dreadnode_engine.state.records import Checkpoint, Run, Session

LINK_SECONDS = 3600
"""How long a signed download address is valid."""
NO_CONTENT = 204


def time_text(seconds: float) -> str:
    """Return a time of the journal as the protocol states it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def metadata_of(found: Session | Run | Checkpoint) -> dict[str, Any] | None:
    """Return what a client has noted about a session, run or checkpoint; None if nothing."""
    return json.loads(found.user_metadata) if found.user_metadata else None


def urn_of(owner: str) -> str:
    """Return the name of OWNER in the protocol."""
    return f"urn:dreadnode-engine:{owner or 'operator'}"


def checkpoint_json(found: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as the protocol describes it."""
    return {
        "checkpoint_id": parse_path(found.path).id,
        "checkpoint_type": found.kind,
        "time": time_text(found.created),
        "tinker_path": found.path,
        "size_bytes": found.bytes,
        "public": bool(found.public),
        "expires_at": time_text(found.expires) if found.expires else None,
        "user_metadata": metadata_of(found),
        "base_model": found.base_model,
    }


def run_json(run: Run, saved: list[Checkpoint]) -> dict[str, Any]:
    """Return a run as the protocol describes it; SAVED has its checkpoints, newest first."""

    def newest(kind: str) -> dict[str, Any] | None:
        return next((checkpoint_json(c) for c in saved if c.run == run.id and c.kind == kind), None)

    return {
        "training_run_id": run.id,
        "base_model": run.base_model,
        "model_owner": run.owner or "local",
        "is_lora": True,
        "lora_rank": run.rank,
        "corrupted": False,
        "last_request_time": time_text(run.used),
        "last_checkpoint": newest("training"),
        "last_sampler_checkpoint": newest("sampler"),
        "user_metadata": metadata_of(run),
    }


async def _capabilities(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    residency = engine.context.residency
    models = []
    for _, model in sorted(engine.context.models.items()):
        # In a thread: the first call for a model reads its configuration and builds its layers.
        memory = await asyncio.to_thread(residency.describe, model)
        models.append({**model.describe(), "memory": memory})
    return JSONResponse({"supported_models": models})


async def _training_runs(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    runs = [queue.run for queue in engine.runs.values() if who.can_access(queue.run.owner)]
    runs.sort(key=lambda run: -run.used)
    saved = await list_checkpoints(engine, who)
    return page_of(request, "training_runs", runs, 20, lambda run: run_json(run, saved))


async def _training_run(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    queue = engine.run(who, request.path_params["run"])
    return JSONResponse(run_json(queue.run, await list_checkpoints(engine, who, queue.run.id)))


async def _run_checkpoints(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    run = request.path_params["run"]
    saved = await list_checkpoints(engine, who, run)
    if not saved:
        engine.run(who, run)
    return JSONResponse({"checkpoints": [checkpoint_json(c) for c in saved]})


async def _checkpoints(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    saved = await list_checkpoints(engine, who)
    return page_of(request, "checkpoints", saved, 100, checkpoint_json)


async def _storage(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    if request.query_params.get("project_id"):
        raise Refused("Leave out `project_id`: this engine has no projects")
    return JSONResponse(storage_json(await list_checkpoints(engine, who)))


def storage_json(saved: list[Checkpoint]) -> dict[str, Any]:
    """Return what the checkpoints SAVED take."""
    size = sum(checkpoint.bytes for checkpoint in saved)
    # The engine does not know what storage costs, so it names no cost.
    used = {"checkpoint_count": len(saved), "size_bytes": size, "size_gigabytes": size / 1e9}
    return {"data": [used]}


async def _weights_info(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    found = await engine.checkpoint(who, string_field(await read_json(request), "tinker_path"))
    return JSONResponse(
        {
            "base_model": found.base_model,
            "is_lora": True,
            "lora_rank": found.rank,
            "train_unembed": bool(found.train_unembed),
            "train_mlp": bool(found.train_mlp),
            "train_attn": bool(found.train_attn),
            "optimizer_config": {"type": "adamw"},
        }
    )


async def _own(engine: Engine, who: Principal, request: HttpRequest) -> Checkpoint:
    """Return the checkpoint that the address names, if WHO may change it."""
    params = request.path_params
    found = await engine.checkpoint(who, f"tinker://{params['run']}/{params['checkpoint']}")
    if not who.can_access(found.owner):
        raise NotFound(f"The checkpoint `{found.path}` does not exist")
    return found


async def _delete(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    found = await _own(engine, who, request)
    await delete_checkpoint(engine, found)
    return Response(status_code=NO_CONTENT)


async def _set_ttl(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    found = await _own(engine, who, request)
    seconds = (await read_json(request)).get("ttl_seconds")
    await set_ttl(engine, found, seconds)
    return Response(status_code=NO_CONTENT)


def _publish(public: bool) -> Call:
    async def call(engine: Engine, who: Principal, request: HttpRequest) -> Response:
        found = await _own(engine, who, request)
        await engine.context.journal.do(queries.update, Checkpoint, found.path, public=public)
        return Response(status_code=NO_CONTENT)

    return call


async def _external_urls(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    params = request.path_params
    path = CheckpointPath(params["run"], "external", params["name"])
    found = await engine.checkpoint(who, str(path))
    expires = int(time.time()) + LINK_SECONDS
    urls = {}
    for file in sorted(engine.context.files.checkpoint(parse_path(found.path)).iterdir()):
        name = f"{path.run}/{path.id}/{file.name}"
        urls[file.name] = signed_address(request, f"/files/{quote(name)}", name, expires)
    return JSONResponse({"urls": urls, "expires": time_text(expires)})


async def download(request: HttpRequest) -> Response:
    """Send one file of an exported checkpoint to the holder of its signed address."""
    name = request.path_params["path"]
    check_signature(request, name, "download", "request a new one")
    engine: Engine = request.app.state.engine
    checkpoint, _, file = name.rpartition("/")
    path = engine.context.files.checkpoint(parse_path(f"tinker://{checkpoint}")) / file
    if not path.is_file():
        raise NotFound("This file was deleted")
    return FileResponse(path, filename=file)


async def _sessions(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    own = [s for s in reversed(engine.sessions.values()) if who.can_access(s.owner)]
    return page_of(request, "sessions", own, 20, lambda session: session.id)


async def _session(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    session = engine.session(who, request.path_params["session"])
    runs = [queue.run.id for queue in engine.runs_of(session)]
    samplers = [s.id for s in engine.context.samplers.values() if s.session == session.id]
    return JSONResponse(session_json(session, runs, samplers))


def session_json(session: Session, runs: list[str], samplers: list[str]) -> dict[str, Any]:
    """Return a session with its RUNS and SAMPLERS as the protocol describes it."""
    return {
        "training_run_ids": runs,
        "sampler_ids": samplers,
        "user_metadata": metadata_of(session),
        "display_name": session.display_name,
    }


async def _trace_export(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    session = engine.session(who, request.path_params["session"])
    return trace_address(request, session.id)


def trace_address(request: HttpRequest, session: str) -> Response:
    """Return the signed address of the trace of SESSION."""
    name = f"sessions/{session}/trace"
    url = signed_address(request, f"/{name}", name, int(time.time()) + LINK_SECONDS)
    return JSONResponse({"status": "ready", "url": url})


async def download_trace(request: HttpRequest) -> Response:
    """Send the trace of a session to the holder of its signed address."""
    session = request.path_params["session"]
    name = f"sessions/{session}/trace"
    check_signature(request, name, "download", "request a new one")
    journal = request.app.state.engine.context.journal
    trace = await journal.do(open_trace, session)

    async def parts() -> AsyncIterator[str]:
        yield trace.head()
        while page := await journal.do(queries.requests_of, session, trace.after):
            yield trace.page(page)
        yield trace.tail()

    headers = trace_headers(session)
    return StreamingResponse(parts(), media_type="application/json", headers=headers)


def trace_headers(session: str) -> dict[str, str]:
    """Return the headers of a file with the trace of SESSION."""
    return {"content-disposition": f'attachment; filename="{session}.pftrace"'}


async def _finish_session(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await finish_session(engine, who, request.path_params["session"])
    return Response(status_code=NO_CONTENT)


async def _sampler(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    sampler = engine.sampler(who, request.path_params["sampler"])
    return JSONResponse(
        {
            "sampler_id": sampler.id,
            "base_model": sampler.base_model,
            "model_path": sampler.model_path,
        }
    )


async def _whoami(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return JSONResponse({"user_urn": urn_of(who.subject), "org_urn": "urn:local"})


_RUN = "/training_runs/{run}"
_ONE = _RUN + "/checkpoints/{checkpoint:path}"

# The longer addresses come first, because a checkpoint's id holds a slash.
CALLS: dict[tuple[str, str], Call] = {
    ("GET", "/get_server_capabilities"): _capabilities,
    ("GET", "/training_runs"): _training_runs,
    ("GET", _RUN): _training_run,
    ("GET", _RUN + "/checkpoints"): _run_checkpoints,
    (
        "GET",
        _RUN + "/checkpoints/external_weights/{name}/external_weights_urls",
    ): _external_urls,
    ("PUT", _ONE + "/ttl"): _set_ttl,
    ("POST", _ONE + "/publish"): _publish(True),
    ("DELETE", _ONE + "/publish"): _publish(False),
    ("DELETE", _ONE): _delete,
    ("GET", "/checkpoints"): _checkpoints,
    ("GET", "/billing/usage/checkpoints/current"): _storage,
    ("POST", "/weights_info"): _weights_info,
    ("GET", "/sessions"): _sessions,
    ("GET", "/sessions/{session}"): _session,
    ("GET", "/sessions/{session}/trace_export"): _trace_export,
    ("POST", "/sessions/{session}/finish"): _finish_session,
    ("GET", "/samplers/{sampler}"): _sampler,
    ("GET", "/auth/apikey/me"): _whoami,
}
