"""Whether this process lives, whether it can serve, and what it has counted."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from dreadnode_api import migrations
from dreadnode_api.errors import Unavailable, UnavailablePayload
from dreadnode_api.http import server_metrics
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.schemas import Response as Answer
from dreadnode_api.http.trace import Telemetry

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
    """Return the metrics of this process and of the server in Prometheus' text form."""
    state = request.app.state
    async with database.reading() as session:
        readings = await server_metrics.database_metrics(session)
    readings += await server_metrics.machine_metrics(
        state.settings.data_dir, state.settings.engine_url
    )
    registry = CollectorRegistry()
    registry.register(server_metrics.Collected(readings))
    telemetry: Telemetry = state.telemetry
    body = generate_latest(telemetry.registry) + generate_latest(registry)
    return Response(body, media_type=CONTENT_TYPE_LATEST)
