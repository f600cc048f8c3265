"""The background tasks of a dispatcher: webhooks and cleanup."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.settings import Settings
from dreadnode_api.webhooks.delivery import Deliverer

ENGINE_SECONDS = 30.0
"""How long the engine may take to answer about checkpoints."""


@asynccontextmanager
async def run_in_background(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Deliver webhooks and clean up while the block runs; both may be cancelled at any point."""
    url, key = settings.engine_url, settings.engine_api_key
    engine = EngineClient(url, key, timeout=ENGINE_SECONDS) if url else None
    tasks = [
        asyncio.create_task(Deliverer(settings, database).run()),
        asyncio.create_task(Cleanup(settings, database, engine).run()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if engine is not None:
            await engine.close()
