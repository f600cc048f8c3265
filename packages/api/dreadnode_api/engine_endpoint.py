"""The application behind the engine's own `/v1`: OpenAI's and Anthropic's protocols without jobs.

The engine starts this process with the first such request, checks the keys itself, and forwards
requests through a socket that no one else can open. It names the holder of the key in a header.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from dreadnode_api.engine_client import EngineClient
from dreadnode_api.http import error_responses
from dreadnode_api.http.trace import Telemetry, Trace
from dreadnode_api.runtime_processes import folder as process_folders
from dreadnode_api.serving import anthropic_routes, openai_routes, service
from dreadnode_api.serving.engine_models import EngineModels
from dreadnode_api.serving.process_pool import ProcessPool
from dreadnode_api.settings import Settings

SUBJECT_HEADER = "x-engine-subject"
"""The subject of the caller's key; empty for the engine's master key."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application, whose engine is the one that starts it."""
    engine = EngineClient(
        settings.engine_url,
        settings.engine_api_key,
        timeout=settings.engine_timeout,
        remember=settings.engine_cache_seconds,
    )
    pool = ProcessPool(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(process_folders.delete_abandoned, settings.data_dir)
        yield
        await pool.close()
        await engine.close()

    async def models(request: Request) -> EngineModels:
        subject = request.headers[SUBJECT_HEADER]
        return EngineModels(engine, pool, subject, settings.engine_key)

    app = FastAPI(lifespan=lifespan, redirect_slashes=False, docs_url=None, redoc_url=None)
    error_responses.install(app)
    app.include_router(openai_routes.router)
    app.include_router(anthropic_routes.router)
    app.dependency_overrides = {service.models: models, service.member_models: models}
    app.add_middleware(Trace, telemetry=Telemetry())
    return app
