"""Routes for probes and metrics: whether the process runs, and whether it can serve."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from anyio import to_thread
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from dreadnode_api import migrations
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ApiError, Unavailable, UnavailablePayload
from dreadnode_api.http import server_metrics
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.schemas import Response as ResponseBody
from dreadnode_api.http.trace import Telemetry
from dreadnode_api.models.health import WriteCheck

router = APIRouter(tags=["Operations"])

READY_SECONDS = 1.0
"""How long a check counts; probes must not cost more writes than requests."""


class Health(ResponseBody):
    """The state of this process."""

    status: str = "ok"


class Readiness:
    """Whether this process can serve: its database and disk can be written, its engine responds."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        self._database = database
        self._data_dir = data_dir
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._engine_has_responded = False

    async def check(self, engine: EngineClient) -> None:
        """Return if this process can serve.

        Raises:
            Unavailable: the schema is another version, or the engine has never responded.
            Exception: the database or the disk fails.
        """
        async with self._checking:
            if time.monotonic() - self._checked_at < READY_SECONDS:
                return
            await self._check_storage()
            if engine.is_configured and not self._engine_has_responded:
                try:
                    await engine.capabilities()
                except ApiError as error:
                    raise Unavailable(error.detail) from None
                # From now on it may restart: most requests do not need it.
                self._engine_has_responded = True
            self._checked_at = time.monotonic()

    async def _check_storage(self) -> None:
        try:
            await migrations.check(self._database)
        except migrations.SchemaError as error:
            raise Unavailable(str(error)) from None
        async with self._database.writing() as session:
            await session.merge(WriteCheck(id=1, checked_at=time.time()))
        await to_thread.run_sync(_write_and_sync, self._data_dir)


def _write_and_sync(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".incoming-ready-") as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())


@router.get("/health/live")
async def live() -> Health:
    """Answer 200: the process runs."""
    return Health()


@router.get("/health/ready", responses={503: {"model": UnavailablePayload}})
async def ready(request: Request) -> Health:
    """Answer 200 if the database and the disk can be written and the engine has responded."""
    readiness: Readiness = request.app.state.readiness
    await readiness.check(request.app.state.engine)
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
