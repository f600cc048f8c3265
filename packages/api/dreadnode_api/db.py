"""The database: one engine and two kinds of transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import event, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from dreadnode_api.models.base import now

BUSY_SECONDS = 20
"""How long a write waits for a lock of the database; clients wait for a response for 30 s."""


async def clock(session: AsyncSession) -> datetime:
    """Return the current time of the database, not of this machine.

    Times that several machines compare, such as the end of a lease, are read from this one clock.
    SQLite has no clock of its own; its file is on this machine, so this machine's clock serves.
    """
    if session.get_bind().dialect.name != "postgresql":
        return now()
    # Not SQL's `now()`, which returns the start of the transaction.
    moment: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return moment.astimezone(UTC)


class Database:
    """SQLite in WAL mode or PostgreSQL, behind the same two transactions.

    `reading()` may run at the same time as any other; `writing()` commits when its block ends. On
    SQLite a writing transaction takes the write lock when it begins, so it cannot fail halfway
    because another writer was faster.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            self.engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
            _prepare_sqlite(self.engine.sync_engine)
        else:
            self.engine = create_async_engine(
                url,
                pool_size=10,
                max_overflow=20,
                pool_pre_ping=True,
                # Requests that wait for a lock hold connections, which reads need too.
                connect_args={"server_settings": {"lock_timeout": f"{BUSY_SECONDS}s"}},
            )
        self._readers = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writers = async_sessionmaker(
            self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE"), expire_on_commit=False
        )
        # SQLite has one write lock. Waiting for it here is fair and blocks no thread.
        self._write_lock = asyncio.Lock() if self.is_sqlite else nullcontext()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Yield a session whose changes are discarded."""
        async with self._readers() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """Yield a session that is committed at the end of the block, or rolled back."""
        async with self._write_lock, self._writers() as session, session.begin():
            yield session

    async def dispose(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _prepare_sqlite(engine: Any) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        # We begin transactions ourselves; the driver must not.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # A committed transaction survives a power cut, at the cost of one fsync a commit.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get("sqlite_begin", "BEGIN")
        connection.exec_driver_sql(statement)
