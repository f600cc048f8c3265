"""The reader of uploads: files from clients are parsed in confined processes, never in the API.

A reading process is `python -I -B -m MODULE ARGUMENTS`. It has limits of time, memory and file size
and a low priority. It reads one file and prints one JSON object. An object with an `error` refuses
the file; the error is one sentence for the client.
"""

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from dreadnode_api.errors import plain
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.http.deps import in_application
from dreadnode_api.runtime_processes.child import run
from dreadnode_api.runtime_processes.command import CommandFailed
from dreadnode_api.runtime_processes.folder import process_folder
from dreadnode_api.settings import Settings

OPEN_FILES = 256
NICENESS = 5
"""A process that reads an upload gets a third of the time of the API, which serves other clients
meanwhile, and of training; with less, a push beside a training job would take too long."""


def upload_queue(settings: Settings) -> FairQueue:
    """Return the queue of every process that reads an upload or its rows."""
    return FairQueue(settings.preflight_at_once, "uploads", wait_seconds=None)


class UnreadableUpload(Exception):
    """A file that is refused; the text is one sentence for the client."""


class UploadReader:
    """Runs reading processes, a bounded number at a time and in fair turns."""

    def __init__(self, settings: Settings, queue: FairQueue) -> None:
        self._settings = settings
        self._queue = queue

    async def read(
        self,
        org_id: str,
        module: str,
        *arguments: str,
        output_bytes: int = 0,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Return what the reading process MODULE prints about a file.

        Args:
            org_id: The organization whose turn in the queue is used.
            module: The module that reads this kind of file.
            arguments: Its arguments.
            output_bytes: The size up to which it may write files.
            seconds: How long it may take; by default as long as a conversion.

        Raises:
            UnreadableUpload: the file is refused, or takes more time or memory than the limits.
            CommandFailed: the process failed.
        """
        settings = self._settings
        seconds = seconds or settings.convert_timeout
        async with self._queue.slot(org_id):
            with process_folder(settings.data_dir, "upload-") as folder:
                try:
                    result = await run(
                        # `-B`: the limit of file sizes could cut the bytecode that it would write.
                        [sys.executable, "-I", "-B", "-m", module, *arguments],
                        b"",
                        folder=folder,
                        environment=_environment(folder),
                        limits={
                            "memory_bytes": settings.convert_memory_bytes,
                            "processes": 1,
                            "cpu_seconds": math.ceil(seconds),
                            "open_files": OPEN_FILES,
                            "disk_bytes": output_bytes,
                            "niceness": NICENESS,
                        },
                        seconds=seconds,
                    )
                except TimeoutError:
                    raise UnreadableUpload(_too_slow(seconds)) from None
        if result.code < 0:
            raise UnreadableUpload(_killed(-result.code, result.reason, seconds))
        try:
            answer = json.loads(result.stdout) if result.code == 0 else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CommandFailed(f"{module} exited with {result.code}: {result.stderr[-2000:]!r}")
        if "error" in answer:
            raise UnreadableUpload(plain(str(answer["error"])))
        return answer


InUploadReader = Annotated[UploadReader, in_application("upload_reader")]


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        # The limit counts reserved memory too, so nothing may reserve more than it uses.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _too_slow(seconds: float) -> str:
    return (
        f"Reading the file took longer than {seconds:.0f} seconds; push JSONL, or raise "
        "`DREADNODE_CONVERT_TIMEOUT` on the server"
    )


def _killed(number: int, reason: str | None, seconds: float) -> str:
    if reason == "cpu_time":
        return _too_slow(seconds)
    return (
        f"Reading the file ended with {signal.Signals(number).name}: it is damaged, or takes more "
        "memory than its reader may use"
    )
