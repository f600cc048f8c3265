"""Working folders of child processes: in the data directory, deleted also after the API was killed.

Each folder is locked by the API that uses it for as long as that one lives. So the next start of an
API deletes what a killed one left, and nothing of another API with the same data directory.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT = "tmp"
"""The name of their parent in the data directory."""


class ProcessFolder:
    """The working folder of a child process; `delete` ends it."""

    def __init__(self, data_dir: Path, prefix: str) -> None:
        parent = data_dir / PARENT
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                return
            # An API that starts has deleted it before it was locked.
            os.close(self._lock)

    def delete(self) -> None:
        """Delete the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def process_folder(data_dir: Path, prefix: str) -> Iterator[Path]:
    """Yield the working folder of a process; it is deleted when the block ends."""
    folder = ProcessFolder(data_dir, prefix)
    try:
        yield folder.path
    finally:
        folder.delete()


def delete_abandoned(data_dir: Path) -> None:
    """Delete the folders that no living API uses."""
    for path in (data_dir / PARENT).glob("*"):
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
