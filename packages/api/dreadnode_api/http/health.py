"""Whether this process lives, whether it can serve, and what it has counted."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import func, select
from starlette.responses import Response

from dreadnode_api import migrations
from dreadnode_api.errors import Unavailable, UnavailablePayload
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.schemas import Response as Answer
from dreadnode_api.http.trace import Telemetry
from dreadnode_api.models.jobs import Job, Status

router = APIRouter(tags=["Operations"])


class Health(Answer):
    """The state of this process."""

    status: str = "ok"


@router.get("/health/live")
async def live() -> Health:
    """Answer: the process runs."""
    return Health()


@router.get("/health/ready", responses={503: {"model": UnavailablePayload}})
async def ready(database: InDatabase) -> Health:
    """Answer if the database can be reached and is of this version."""
    try:
        await migrations.check(database)
    except migrations.SchemaError as error:
        raise Unavailable(str(error)) from None
    except (OSError, TimeoutError):
        raise Unavailable("The database cannot be reached") from None
    return Health()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request, database: InDatabase) -> Response:
    """Return the counters in Prometheus' text form, and how many jobs are queued and running."""
    telemetry: Telemetry = request.app.state.telemetry
    async with database.reading() as session:
        found = await session.execute(
            select(Job.status, func.count())
            .where(Job.status.in_((Status.QUEUED, Status.RUNNING)))
            .group_by(Job.status)
        )
        counts = {row[0]: row[1] for row in found}
    lines = ["# HELP training_jobs Jobs that have not ended", "# TYPE training_jobs gauge"]
    lines += [
        f'training_jobs{{status="{status}"}} {counts.get(status, 0)}'
        for status in (Status.QUEUED.value, Status.RUNNING.value)
    ]
    body = generate_latest(telemetry.registry) + ("\n".join(lines) + "\n").encode()
    return Response(body, media_type=CONTENT_TYPE_LATEST)
