"""What surrounds the server: the lock on its folder, its socket, its parent process."""

import asyncio
import fcntl
import gc
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import uvicorn

from dreadnode_engine.errors import Refused

LOCK_SECONDS = 20.0
"""How long to wait for an engine that is ending to unlock the data directory."""


@contextmanager
def without_collections() -> Iterator[None]:
    """Import without garbage collections: they take a sixth of the time, and find nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def lock_data_dir(
    data_dir: Path, name: str = "engine.lock", seconds: float | None = None
) -> TextIO:
    """Lock DATA_DIR until the returned file is closed: two engines would corrupt it.

    Args:
        data_dir: the folder.
        name: of the file that is locked.
        seconds: how long to wait for another engine to end; None waits LOCK_SECONDS.
    """
    lock = (data_dir / name).open("a")
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise Refused(
                    f"Another engine uses {data_dir}; stop it, or choose another folder with "
                    "`--data-dir`"
                ) from None
            await asyncio.sleep(0.1)
        else:
            return lock


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only with the protocol named does asyncio turn off the delay of small packets.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Refused(f"The engine cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


async def announce(server: uvicorn.Server, listening: socket.socket) -> None:
    """Print the address once SERVER has started."""
    while not server.started:  # noqa: ASYNC110 (uvicorn has a flag and no event)
        await asyncio.sleep(0.02)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    say(sys.stdout, f"engine ready on http://{shown}:{port}")


def say(stream: TextIO, line: str) -> None:
    """Write LINE to STREAM and flush it."""
    stream.write(line + "\n")
    stream.flush()


def end_with_parent() -> None:
    """End this process when its stdin is a pipe and the parent closes it."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        while True:
            # Again and again: a signal before the server handles it would be lost.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
