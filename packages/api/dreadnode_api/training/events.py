"""The events of a job as a stream of server-sent events.

Metrics, logs, phases and states come in the order of their numbers. The number is the event's id,
so a client that was cut off goes on behind the last one it saw (`Last-Event-ID`) and misses
nothing. When the job has ended and all is told the stream ends, and asking again is answered 204,
which tells a browser to stop asking.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy import select
from starlette.responses import Response, StreamingResponse

from dreadnode_api.auth.callers import Authenticator
from dreadnode_api.db import Database
from dreadnode_api.errors import ERRORS, Unauthenticated, plain
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.models.jobs import ENDED, Event, Job
from dreadnode_api.training import service
from dreadnode_api.training.deps import JobPlace, JobReader

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)

LOOK_EVERY = 0.5
KEEP_ALIVE = 15.0
AT_ONCE = 500


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The events, as they happen"},
        204: {"description": "The job has ended and everything is told"},
    },
)
async def stream_events(
    place: JobReader,
    request: Request,
    database: InDatabase,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Events behind this id")] = 0,
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{0,9}$")] = "",
) -> Response:
    """Stream what happens to a job until it has ended."""
    seen = int(last_event_id) if last_event_id else after
    async with database.reading() as session:
        job = await service.get_job(session, place.workspace_id, place.job_id)
    if job.status in ENDED and job.events <= seen:
        return Response(status_code=204)
    return StreamingResponse(
        _stream(database, request, place, seen),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    database: Database, request: Request, place: JobPlace, seen: int
) -> AsyncIterator[bytes]:
    authenticator: Authenticator = request.app.state.authenticator
    told_at = time.monotonic()
    # A client that is cut off comes back this soon.
    yield b"retry: 1000\n\n"
    while True:
        ended, events = await _next(database, place.job_id, seen)
        for event in events:
            seen, told_at = event.number, time.monotonic()
            yield encode(event)
        if len(events) == AT_ONCE:
            continue
        if ended:
            return
        if time.monotonic() - told_at > KEEP_ALIVE:
            told_at = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(LOOK_EVERY)
        try:
            await authenticator.caller(request.headers)
        except Unauthenticated:
            return  # The key was revoked, and this stream with it.


async def _next(database: Database, job_id: str, seen: int) -> tuple[bool, list[Event]]:
    """Return whether the job has ended, and the events behind `seen`."""
    async with database.reading() as session:
        # In this order: an end seen now comes with all events that were before it.
        status = await session.scalar(select(Job.status).where(Job.id == job_id))
        found = await session.scalars(
            select(Event)
            .where(Event.job_id == job_id, Event.number > seen)
            .order_by(Event.number)
            .limit(AT_ONCE)
        )
        return status in ENDED, list(found)


def encode(event: Event) -> bytes:
    """Return an event in the text form of server-sent events; JSON keeps it on one line."""
    body = json.dumps(
        {
            "type": event.type,
            "timestamp": event.created_at.isoformat().replace("+00:00", "Z"),
            "level": event.level,
            "message": None if event.message is None else plain(event.message),
            "data": event.data,
        }
    )
    return f"id: {event.number}\nevent: {event.type}\ndata: {body}\n\n".encode()
