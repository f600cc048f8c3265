"""Workers as processes of this machine."""

import asyncio
import contextlib
import os
import sys
from typing import Protocol, cast

from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import Settings
from dreadnode_engine.state.checkpoint_files import worker_dir
from dreadnode_engine.workers.worker_process import REFUSED, WorkerSpec

READY = "engine ready on "


class EndedEarly(Exception):
    """A worker that ended before it served."""


class Launched(Protocol):
    """A worker that serves."""

    url: str

    async def ended(self) -> str:
        """Wait until it has ended, and return how."""
        ...

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, index: int) -> Launched:
        """Start worker INDEX, and return it when it serves.

        Raises:
            Refused: It does not accept its settings.
            EndedEarly: It ended before it served.
        """
        ...


def spec_of(settings: Settings, index: int, **changes: object) -> WorkerSpec:
    """Return what worker INDEX is started with; CHANGES replace some of the SETTINGS."""
    own = {
        "data_dir": worker_dir(settings.data_dir, index),
        "port": 0,
        "workers": 1,
        "ray_address": None,
        **changes,
    }
    return WorkerSpec(settings=settings.model_copy(update=own), shared_dir=settings.data_dir)


def command_of(spec: WorkerSpec) -> list[str]:
    """Return the command that starts a worker."""
    return [sys.executable, "-m", "dreadnode_engine", "worker", spec.model_dump_json()]


class LocalWorker:
    """A worker in a process of its own. It ends when its stdin does, so never after its router."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def ended(self) -> str:
        """Wait until it has ended, and return how."""
        return f"exit code {await self._process.wait()}"

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()


class LocalLauncher:
    """Starts workers on this machine: each with a GPU, or with its part of the CPU cores."""

    def __init__(self, settings: Settings, memory_gib: float | None) -> None:
        self._settings = settings
        cores = len(os.sched_getaffinity(0)) // settings.workers
        self._changes = {
            "host": "127.0.0.1",
            "memory_gib": memory_gib,
            "threads": settings.threads or (max(1, cores) if settings.device == "cpu" else None),
        }

    async def launch(self, index: int) -> LocalWorker:
        """Start worker INDEX, and return it when it serves."""
        spec = spec_of(self._settings, index, **self._changes)
        process = await asyncio.create_subprocess_exec(
            *command_of(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C reaches the router only, which ends its workers.
            process_group=0,
            env={**os.environ, **self._gpu(index)},
        )
        try:
            return LocalWorker(process, await read_url(process))
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise

    def _gpu(self, index: int) -> dict[str, str]:
        if self._settings.device != "cuda":
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(i) for i in range(self._settings.workers)]
        if index >= len(gpus):
            raise Refused(
                f"`--workers {self._settings.workers}` needs as many GPUs, and "
                f"CUDA_VISIBLE_DEVICES names {len(gpus)}"
            )
        return {"CUDA_VISIBLE_DEVICES": gpus[index]}


async def read_url(process: asyncio.subprocess.Process) -> str:
    """Return the address that PROCESS prints when it serves."""
    # It was started with a pipe.
    output = cast("asyncio.StreamReader", process.stdout)
    line = (await output.readline()).decode().strip()
    if line.startswith(READY):
        return line.removeprefix(READY)
    code = await process.wait()
    if line.startswith(REFUSED):
        raise Refused(line.removeprefix(REFUSED))
    raise EndedEarly(f"exit code {code}")
