"""The events of a job as a stream of server-sent events.

Metrics, logs, phases and statuses are sent in the order of their numbers. The number is the event's
id, so a disconnected client continues after the last event it saw (`Last-Event-ID`) and misses
none. The stream ends after the last event of an ended job. A further request then gets the status
204, which makes a browser stop reconnecting.
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
from dreadnode_api.jobs import service
from dreadnode_api.jobs.deps import JobReader, JobScope
from dreadnode_api.models.jobs import ENDED, Event, Job

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
BATCH = 500


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The events, as they happen"},
        204: {"description": "The job has ended and the client has all events"},
    },
)
async def stream_events(
    scope: JobReader,
    request: Request,
    database: InDatabase,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Only events after this id")] = 0,
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{0,9}$")] = "",
) -> Response:
    """Stream the events of a job until it has ended."""
    seen = int(last_event_id) if last_event_id else after
    async with database.reading() as session:
        job = await service.get_job(session, scope.workspace_id, scope.job_id)
    if job.status in ENDED and job.events <= seen:
        return Response(status_code=204)
    return StreamingResponse(
        _stream(database, request, scope, seen),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    database: Database, request: Request, scope: JobScope, seen: int
) -> AsyncIterator[bytes]:
    authenticator: Authenticator = request.app.state.authenticator
    sent_at = time.monotonic()
    # A disconnected client reconnects after this many milliseconds.
    yield b"retry: 1000\n\n"
    while True:
        ended, events = await _next(database, scope.job_id, seen)
        for event in events:
            seen, sent_at = event.number, time.monotonic()
            yield encode(event)
        if len(events) == BATCH:
            continue
        if ended:
            return
        if time.monotonic() - sent_at > KEEP_ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield b": keep-alive\n\n"
        await asyncio.sleep(POLL_SECONDS)
        try:
            await authenticator.caller(request.headers)
        except Unauthenticated:
            return  # The token was revoked.


async def _next(database: Database, job_id: str, seen: int) -> tuple[bool, list[Event]]:
    """Return whether the job has ended, and the events after `seen`."""
    async with database.reading() as session:
        # The status first: if the job has ended by now, the query below returns all its events.
        status = await session.scalar(select(Job.status).where(Job.id == job_id))
        found = await session.scalars(
            select(Event)
            .where(Event.job_id == job_id, Event.number > seen)
            .order_by(Event.number)
            .limit(BATCH)
        )
        # A job without a status was deleted.
        return status is None or status in ENDED, list(found)


def encode(event: Event) -> bytes:
    """Return an event in the format of server-sent events; its JSON is a single line."""
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
