"""The application: `create_app(settings)` joins routes, error responses and their dependencies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from dreadnode_api.auth import people_routes
from dreadnode_api.auth import routes as auth_routes
from dreadnode_api.auth.callers import Authenticator
from dreadnode_api.auth.cookies import Cookies
from dreadnode_api.auth.guard import Guard
from dreadnode_api.auth.rates import invented_tokens
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.capabilities import registry, visibility
from dreadnode_api.capabilities import routes as capability_routes
from dreadnode_api.catalog import routes as catalog_routes
from dreadnode_api.checkpoints import routes as checkpoint_routes
from dreadnode_api.checkpoints import uploaded_adapter_routes
from dreadnode_api.checkpoints.transfers import AdapterTransfers
from dreadnode_api.console import console
from dreadnode_api.datasets import routes as dataset_routes
from dreadnode_api.datasets.row_check import RowCheck
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.http import error_responses, health, swagger_ui
from dreadnode_api.http.health import Readiness
from dreadnode_api.http.query_parameters import refuse_unknown
from dreadnode_api.http.security_headers import SecurityHeaders
from dreadnode_api.http.trace import Telemetry, Trace
from dreadnode_api.pricing import routes as cost_routes
from dreadnode_api.runtime_processes import folder as process_folders
from dreadnode_api.serving import anthropic_routes, job_chat_routes, openai_routes
from dreadnode_api.serving.process_pool import ProcessPool
from dreadnode_api.settings import Settings
from dreadnode_api.training import events, preflight_routes, sandbox_routes
from dreadnode_api.training import routes as job_routes
from dreadnode_api.training.preflight import Preflight
from dreadnode_api.training.validation import Validator
from dreadnode_api.uploads import UploadReader, upload_queue
from dreadnode_api.webhooks import routes as webhook_routes

PREFIX = "/api/v1"


def create_app(settings: Settings) -> FastAPI:
    """Return the application, which reads and writes nothing before its first request."""
    database = Database(settings.database_url)
    engine = EngineClient(
        settings.engine_url,
        settings.engine_api_key,
        timeout=settings.engine_timeout,
        remember=settings.engine_cache_seconds,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(process_folders.delete_abandoned, settings.data_dir)
        app.state.preflight.warm_up()
        validating = asyncio.create_task(app.state.validator.run())
        yield
        validating.cancel()
        await asyncio.gather(validating, return_exceptions=True)
        await app.state.validator.close()
        await app.state.preflight.close()
        await app.state.transfers.close()
        await app.state.serving.close()
        await engine.close()
        await app.state.authenticator.close()
        await database.dispose()

    app = FastAPI(
        title="dreadnode training",
        version=version("dreadnode-training-api"),
        description="A self-hostable control plane for fine-tuning with Tinker",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # Ours is written once, in `swagger_ui`.
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    telemetry = Telemetry()
    app.state.settings = settings
    app.state.database = database
    app.state.engine = engine
    app.state.telemetry = telemetry
    app.state.authenticator = Authenticator(database)
    app.state.cookies = Cookies(tls=settings.uses_tls)
    app.state.invented = invented_tokens(settings)
    app.state.readiness = Readiness(database, settings.data_dir)
    app.state.store = BlobStore(settings.data_dir / "blobs")
    app.state.preflight = Preflight(settings, database)
    app.state.validator = Validator(settings, database, app.state.preflight)
    uploads = upload_queue(settings)
    app.state.upload_reader = UploadReader(settings, uploads)
    app.state.row_check = RowCheck(settings, uploads)
    app.state.serving = ProcessPool(settings)
    app.state.transfers = AdapterTransfers(settings, database, app.state.store)
    error_responses.install(app)
    for module in (
        auth_routes,
        people_routes,
        catalog_routes,
        dataset_routes,
        capability_routes,
        job_routes,
        cost_routes,
        preflight_routes,
        events,
        checkpoint_routes,
        uploaded_adapter_routes,
        job_chat_routes,
        sandbox_routes,
        webhook_routes,
        visibility,
    ):
        app.include_router(module.router, prefix=PREFIX, dependencies=[Depends(refuse_unknown)])
    # Clients of an OCI registry may send parameters of its extensions.
    app.include_router(registry.router, prefix=PREFIX)
    # The addresses of these clients are fixed.
    app.include_router(openai_routes.router)
    app.include_router(anthropic_routes.router)
    app.include_router(health.router)
    app.include_router(swagger_ui.router)
    app.mount("/docs/assets", swagger_ui.assets())
    console.install(app)
    app.add_middleware(
        Guard,
        settings=settings,
        authenticator=app.state.authenticator,
        cookies=app.state.cookies,
        invented=app.state.invented,
    )
    app.add_middleware(Trace, telemetry=telemetry)
    app.add_middleware(SecurityHeaders, tls=settings.uses_tls)
    return app
