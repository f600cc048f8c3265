"""A pushed file to JSONL, in a process that keeps to limits: what it reads is a stranger's."""

import asyncio
import json
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, ValidationError

from dreadnode_api.errors import Invalid, plain
from dreadnode_api.runtime_processes.confined import ask
from dreadnode_api.settings import Settings

MAGIC = b"PAR1"
OPEN_FILES = 256


class Made(BaseModel):
    """The JSONL that a conversion has written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    bytes: int
    sha256: str


class ConversionFailed(Exception):
    """The converting process did not do its work, which is our bug and a 500."""


class Converter:
    """Runs conversions, a bounded number at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(settings.preflight_at_once)

    async def convert(self, kind: str, source: Path, target: Path, limit: int) -> Made:
        """Write the rows of SOURCE, a file of KIND, to TARGET as JSONL.

        Raises:
            Invalid: the file is not of this kind, or its rows are more than LIMIT bytes, or it
                takes more time or memory than a conversion is given.
            ConversionFailed: the process failed.
        """
        if kind == "parquet" and not await to_thread.run_sync(_is_parquet, source):
            raise Invalid("The file is not Parquet; Parquet begins and ends with `PAR1`")
        seconds = self._settings.convert_timeout
        async with self._room:
            with tempfile.TemporaryDirectory(prefix="convert-") as folder:
                try:
                    said = await ask(
                        _command(kind, source, target, limit),
                        b"",
                        folder=Path(folder),
                        environment=_environment(folder),
                        limits={
                            "memory_bytes": self._settings.convert_memory_bytes,
                            "cpu_seconds": math.ceil(seconds),
                            "open_files": OPEN_FILES,
                            "disk_bytes": limit + 1,
                        },
                        seconds=seconds,
                    )
                except TimeoutError:
                    raise Invalid(_too_slow(seconds)) from None
        if said.code < 0:
            raise Invalid(_killed(-said.code, seconds))
        try:
            told = json.loads(said.output) if said.code == 0 else None
            if isinstance(told, dict) and "error" in told:
                raise Invalid(plain(str(told["error"])))
            return Made.model_validate(told)
        except (ValueError, ValidationError) as error:
            raise ConversionFailed(
                f"the conversion ended with {said.code}: {said.complaint[-2000:]!r}"
            ) from error


def _command(kind: str, source: Path, target: Path, limit: int) -> list[str]:
    paths = (str(source.absolute()), str(target.absolute()))
    return [sys.executable, "-I", "-m", "dreadnode_api.datasets.formats", kind, *paths, str(limit)]


def _environment(folder: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        # Memory that is given back at once, and none that is only set aside: there is a limit.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(len(MAGIC))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(MAGIC), 0))
        return size >= 12 and first == MAGIC == file.read()


def _too_slow(seconds: float) -> str:
    return (
        f"Reading the file took longer than {seconds:.0f} seconds; push JSONL, or raise "
        "`DREADNODE_CONVERT_TIMEOUT` on the server"
    )


def _killed(number: int, seconds: float) -> str:
    if number == signal.SIGXCPU:
        return _too_slow(seconds)
    return (
        f"Reading the file ended with {signal.Signals(number).name}: it is damaged, or takes more "
        "memory than a conversion is given"
    )
