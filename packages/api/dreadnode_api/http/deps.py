"""Dependencies that any route may use: the application's database, settings, engine and store.

They are coroutines, because FastAPI runs plain functions in a thread.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.settings import Settings


async def database(request: Request) -> Database:
    """Return the database of this application."""
    found: Database = request.app.state.database
    return found


async def settings(request: Request) -> Settings:
    """Return the settings of this application."""
    found: Settings = request.app.state.settings
    return found


async def engine(request: Request) -> EngineClient:
    """Return the client of the training engine that this server uses."""
    found: EngineClient = request.app.state.engine
    return found


async def store(request: Request) -> BlobStore:
    """Return the store of datasets and job files."""
    found: BlobStore = request.app.state.store
    return found


InDatabase = Annotated[Database, Depends(database)]
InSettings = Annotated[Settings, Depends(settings)]
InEngine = Annotated[EngineClient, Depends(engine)]
InStore = Annotated[BlobStore, Depends(store)]


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
