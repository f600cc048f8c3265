"""The crash guard: a request that kills the engine fails instead of killing every later start.

A request can kill the process (too much memory, a fault in a kernel). The computing thread names
the requests that it is about to compute in a small file, and the next start counts an interruption
for each request in it. The file is not flushed to disk: it only has to outlive the process.
"""

import contextlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.state.records import Request

log = logging.getLogger(__name__)

MAX_INTERRUPTIONS = 5
"""After so many interruptions in a row a request fails."""
ISOLATE_AFTER = 3
"""After so many, a sampling request is computed alone: one of several killed the engine."""


class CrashGuard:
    """The file that names what is computed. Only `stop` is safe in other threads."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._stopped = False
        self._warned = False
        self._lock = threading.Lock()

    def mark_computing(self, requests: Iterable[str]) -> None:
        """Write that exactly REQUESTS are being computed."""
        with self._lock:
            if not self._stopped:
                self._write(json.dumps(sorted(requests)))

    def clear(self) -> None:
        """Write that nothing is being computed."""
        with self._lock:
            self._write("")

    def stop(self) -> None:
        """Write that the engine was asked to end: no later end counts as an interruption."""
        with self._lock:
            self._stopped = True
            self._write("")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def take_interrupted(self) -> list[str]:
        """Return what the process before this one was computing when it ended; then clear it."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            line = file.readline()
        # Cleared before it is counted: an interruption counts once at most.
        self.clear()
        try:
            found = json.loads(line)
        except ValueError:
            return []
        return [str(name) for name in found] if isinstance(found, list) else []

    def _write(self, text: str) -> None:
        """Write one line over the one before; only the first line is ever read."""
        try:
            os.pwrite(self._file, f"{text}\n".encode(), 0)
        except OSError as problem:
            # A full disk must neither stop the computing nor leave an old name in the file.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            if not self._warned:
                log.warning("the crash guard cannot be written: %s", problem)
            self._warned = True


def count_interruptions(db: sqlite3.Connection, requests: Iterable[str]) -> None:
    """Record that the engine ended unexpectedly while it computed REQUESTS."""
    one_more = "UPDATE requests SET lost = lost + 1 WHERE id = ? AND state = 'queued'"
    for name in requests:
        if db.execute(one_more, (name,)).rowcount:
            log.warning("the engine ended unexpectedly while it computed %s", name)


def check_interruptions(request: Request) -> None:
    """Fail REQUEST if the engine ended too often while it computed it."""
    if request.lost >= MAX_INTERRUPTIONS:
        raise OperationFailed(
            f"The engine ended unexpectedly {request.lost} times in a row while it computed this "
            "request, probably out of memory, so it is not run again; send fewer or shorter "
            "sequences in one request, or give the engine a machine with more memory"
        )
