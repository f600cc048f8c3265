"""The shared folder: locked by one router, and watched for its disappearance."""

import asyncio
import os
from pathlib import Path
from typing import Self, TextIO

from dreadnode_engine.errors import Refused
from dreadnode_engine.startup import lock_data_dir

LOCK_FILE = "router.lock"
CHECK_SECONDS = 1.0
STAT_SECONDS = 5.0
"""How long a network file system may take to find a file."""


class SharedFolder:
    """The data directory of an engine with several workers, locked until it is closed.

    Attributes:
        problem: why nothing can be written to it, if so.
    """

    def __init__(self, path: Path, lock: TextIO) -> None:
        self._path = path
        self._lock = lock
        self._file = os.fstat(lock.fileno())
        self._gone = (
            f"The data directory {path} of this engine has disappeared; mount it again, or move "
            "it back, and requests continue"
        )
        self.problem: str | None = None

    @classmethod
    async def lock(cls, path: Path) -> Self:
        """Lock PATH, or refuse it while another engine has it."""
        lock = await lock_data_dir(path, LOCK_FILE)
        try:
            # A single engine has another lock.
            (await lock_data_dir(path)).close()
        except Refused:
            lock.close()
            raise
        return cls(path, lock)

    async def watch(self) -> None:
        """Check again and again whether the folder is there, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            check = asyncio.create_task(asyncio.to_thread(self._is_there))
            done, _ = await asyncio.wait({check}, timeout=STAT_SECONDS)
            there = bool(done) and check.result()
            self.problem = None if there else self._gone
            # A check that hangs ends before the next begins.
            await check

    def _is_there(self) -> bool:
        try:
            found = (self._path / LOCK_FILE).stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self._file.st_dev, self._file.st_ino)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()
