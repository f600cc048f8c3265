"""The background tasks of a dispatcher: webhooks and cleanup."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dreadnode_api.checkpoints.retention import EngineCheckpoints
from dreadnode_api.db import Database
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.settings import Settings
from dreadnode_api.webhooks.delivery import Deliverer


@asynccontextmanager
async def run_in_background(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Deliver webhooks and clean up while the block runs; both may be cancelled at any point."""
    files = (
        EngineCheckpoints(settings.engine_url, settings.engine_api_key)
        if settings.engine_url
        else None
    )
    tasks = [
        asyncio.create_task(Deliverer(settings, database).run()),
        asyncio.create_task(Cleanup(settings, database, files).run()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if files is not None:
            await files.close()
