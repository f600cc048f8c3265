"""Dependencies that any route may use: the application's database, settings, engine and store.

They are coroutines, because FastAPI runs plain functions in a thread.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.settings import Settings


def in_application(name: str) -> Any:
    """Return the dependency on what the application keeps as `state.NAME`."""

    async def found(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(found)


InDatabase = Annotated[Database, in_application("database")]
InSettings = Annotated[Settings, in_application("settings")]
InEngine = Annotated[EngineClient, in_application("engine")]
InStore = Annotated[BlobStore, in_application("store")]


async def _read(database: InDatabase) -> AsyncIterator[AsyncSession]:
    async with database.reading() as session:
        yield session


async def _write(database: InDatabase) -> AsyncIterator[AsyncSession]:
    async with database.writing() as session:
        yield session


# `scope="function"` commits before the response is sent. By default FastAPI ends the dependency
# after it, and a client could hold a 201 for a row that was never written.
ReadSession = Annotated[AsyncSession, Depends(_read, scope="function")]
WriteSession = Annotated[AsyncSession, Depends(_write, scope="function")]
