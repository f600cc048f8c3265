"""The calls of a router to its workers; the master key opens those that change something."""

import time
from dataclasses import asdict

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from dreadnode_engine.errors import Unauthorized
from dreadnode_engine.http.bodies import read_json
from dreadnode_engine.http.calls import Call
from dreadnode_engine.protocol.validation import string_field
from dreadnode_engine.service import shared_work
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.service.sessions import add_session
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Checkpoint, Sampler, Session

DONE = 204


async def _load(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    return JSONResponse(shared_work.load(engine))


async def _knows(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    name = string_field(await read_json(request), "name")
    return JSONResponse({"known": await shared_work.knows(engine, name)})


async def _adopt_session(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    session = Session(**await read_json(request))
    if session.id not in engine.sessions:
        await add_session(engine, session)
    return Response(status_code=DONE)


async def _share_sampler(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    sampler = engine.sampler(who, string_field(await read_json(request), "name"))
    # Its weights stay as long as both workers use it.
    sampler.used = time.time()
    return JSONResponse(asdict(sampler))


async def _adopt_sampler(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    await shared_work.adopt_sampler(engine, Sampler(**await read_json(request)))
    return Response(status_code=DONE)


async def _lend(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    path = string_field(await read_json(request), "path")
    found = await engine.context.journal.do(queries.find, Checkpoint, path)
    return JSONResponse(asdict(found) if found is not None else None)


async def _borrow(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    fields = await read_json(request)
    record = fields["record"]
    shared_work.borrow(engine, fields["path"], Checkpoint(**record) if record else None)
    return Response(status_code=DONE)


async def _sessions(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    """List the sessions of WHO with their times, by which the router merges them."""
    own = [[s.created, s.id] for s in engine.sessions.values() if who.can_access(s.owner)]
    return JSONResponse(own)


def _for_master(call: Call) -> Call:
    async def checked(engine: Engine, who: Principal, request: HttpRequest) -> Response:
        if who.subject != MASTER:
            raise Unauthorized("Only the router of this engine may call its workers directly")
        return await call(engine, who, request)

    return checked


CALLS: dict[tuple[str, str], Call] = {
    ("GET", "/worker/load"): _for_master(_load),
    ("POST", "/worker/knows"): _for_master(_knows),
    ("POST", "/worker/adopt_session"): _for_master(_adopt_session),
    ("POST", "/worker/share_sampler"): _for_master(_share_sampler),
    ("POST", "/worker/adopt_sampler"): _for_master(_adopt_sampler),
    ("POST", "/worker/lend"): _for_master(_lend),
    ("POST", "/worker/borrow"): _for_master(_borrow),
    ("GET", "/worker/sessions"): _sessions,
}
