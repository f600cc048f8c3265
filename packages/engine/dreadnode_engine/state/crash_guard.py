"""What is being computed at this moment, so that it is known after an end that nobody asked for.

A request that kills the process (too much memory, a fault in a kernel) would kill it again at
every start. So the computing thread names what it is about to compute in a small file, and the
next start counts the ends that each request was under way at. The file is written without a flush
to disk: it outlives the process, which is all that it is for.
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

LOST_STARTS = 5
"""Unexpected ends in a row under one request after which it is not computed again."""
ALONE_FROM = 3
"""Ends after which a sample is drawn without company, to learn whether it is the one."""


class Underway:
    """The file that names what is computed. Only `stop` may be called from another thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._stopped = False
        self._complained = False
        self._lock = threading.Lock()

    def begin(self, requests: Iterable[str]) -> None:
        """Say that REQUESTS are being computed from now on, and nothing else."""
        with self._lock:
            if not self._stopped:
                self._write(json.dumps(sorted(requests)))

    def clear(self) -> None:
        """Say that nothing is being computed."""
        with self._lock:
            self._write("")

    def stop(self) -> None:
        """Say that the engine ends because it was asked to, however it ends after that."""
        with self._lock:
            self._stopped = True
            self._write("")

    def close(self) -> None:
        """Close the file, when nothing will compute any more."""
        os.close(self._file)

    def take(self) -> list[str]:
        """Return what was being computed when the process before this one ended, once."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            line = file.readline()
        # Forgotten before it is counted: an end counts once at most.
        self.clear()
        try:
            found = json.loads(line)
        except ValueError:
            return []
        return [str(name) for name in found] if isinstance(found, list) else []

    def _write(self, text: str) -> None:
        """Write one line over the one before; what is left of that behind it is never read."""
        try:
            os.pwrite(self._file, f"{text}\n".encode(), 0)
        except OSError as problem:
            # A full disk must not stop the computing, nor leave the name of what is over by now.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            if not self._complained:
                log.warning("what is being computed cannot be noted: %s", problem)
            self._complained = True


def count_lost(db: sqlite3.Connection, requests: Iterable[str]) -> None:
    """Record that the engine ended unexpectedly while it computed REQUESTS."""
    one_more = "UPDATE requests SET lost = lost + 1 WHERE id = ? AND state = 'queued'"
    for name in requests:
        if db.execute(one_more, (name,)).rowcount:
            log.warning("the engine ended unexpectedly while it computed %s", name)


def check_lost(request: Request) -> None:
    """Fail a REQUEST under which the engine has ended too often."""
    if request.lost >= LOST_STARTS:
        raise OperationFailed(
            f"The engine ended unexpectedly {request.lost} times in a row while it computed this "
            "request, probably for want of memory, so it is not run again; send fewer or shorter "
            "sequences in one request, or give the engine a machine with more memory"
        )
