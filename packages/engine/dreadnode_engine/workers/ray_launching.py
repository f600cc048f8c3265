"""Workers as actors of a Ray cluster: Ray chooses their machines, and restarts lost actors.

An actor starts the worker as a process of its own, which ends with the actor. So the worker is the
same program as without Ray, and a worker that is killed is started again without a new actor.
"""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import ray
from ray.exceptions import RayError, RayTaskError

from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import Settings
from dreadnode_engine.workers.launching import (
    EndedEarly,
    LocalWorker,
    command_of,
    read_url,
    spec_of,
)
from dreadnode_engine.workers.ray_cluster import connect, needs_of_a_worker
from dreadnode_engine.workers.shared_folder import LOCK_FILE
from dreadnode_engine.workers.supervisor import CONNECT_SECONDS
from dreadnode_engine.workers.worker_process import WorkerSpec

PLACE_SECONDS = 60.0
"""How long an actor waits for a machine; Ray needs about 15 s to see that one is lost."""
KEY = "DREADNODE_ENGINE_KEY"


class WorkerActor:
    """One worker on the machine that Ray has chosen."""

    def __init__(self) -> None:
        self._worker: LocalWorker | None = None
        self._starting = asyncio.Lock()

    async def check_folder(self, shared_dir: Path) -> None:
        """Refuse a machine that does not see the router's lock on SHARED_DIR."""
        await asyncio.to_thread(check_folder, shared_dir, ray.util.get_node_ip_address())

    async def start(self, specification: str, environment: Mapping[str, str]) -> str:
        """Start the worker unless it runs, and return its address.

        Raises:
            Refused: It does not accept its settings.
            EndedEarly: It ended before it served.
        """
        async with self._starting:
            if self._worker is None or not self._worker.running:
                self._worker = await _start(specification, environment)
            return self._worker.url

    async def ended(self) -> str:
        """Wait until the worker has ended, and return how."""
        return await self._worker.ended() if self._worker is not None else "its actor is new"

    async def stop(self) -> None:
        """Ask the worker to end, and wait until it has."""
        if self._worker is not None:
            await self._worker.stop()


def check_folder(shared_dir: Path, host: str) -> None:
    """Refuse the machine HOST, which this is, unless it sees the router's lock on SHARED_DIR."""
    try:
        with (shared_dir / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # The router has locked it.
    except OSError as problem:
        raise Refused(
            f"The machine {host} cannot read the data directory {shared_dir} ({problem.strerror}); "
            "mount it there under the same path"
        ) from None
    raise Refused(
        f"The machine {host} does not see the router's lock on {shared_dir}: mount the same folder "
        "there, on storage that locks files across machines"
    )


async def _start(specification: str, environment: Mapping[str, str]) -> LocalWorker:
    spec = WorkerSpec.model_validate_json(specification)
    # Not on all addresses: the network of the cluster is the one that the router uses.
    host = ray.util.get_node_ip_address()
    own = spec.model_copy(update={"settings": spec.settings.model_copy(update={"host": host})})
    # Ray sets it to 1 where an actor reserves a GPU only.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    process = await asyncio.create_subprocess_exec(
        *command_of(own),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**inherited, **environment},
    )
    try:
        return LocalWorker(process, await read_url(process))
    except Refused as refusal:
        raise Refused(f"{refusal} (on the machine {host})") from None


class RayWorker:
    """A worker of a cluster."""

    def __init__(self, actor: Any, url: str) -> None:
        self.url = url
        self._actor = actor

    async def ended(self) -> str:
        """Wait until it or its machine has ended, and return how."""
        try:
            return str(await _result(self._actor.ended.remote()))
        except EndedEarly as lost:
            return str(lost)

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        try:
            await _result(self._actor.stop.remote())
        except EndedEarly:
            return  # Its actor is gone, and the worker with it.


class RayLauncher:
    """Starts workers on the machines of a Ray cluster: each with a GPU, or with CPU cores.

    Raises:
        Refused: The cluster does not answer, or has too little room.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        needs = needs_of_a_worker(settings, connect(settings))
        self._wanted = "a free GPU" if "GPU" in needs else "enough free cores and memory"
        self._changes: dict[str, object] = {
            "threads": int(needs["CPU"]) if "CPU" in needs else settings.threads,
            "model": tuple(_absolute(pair) for pair in settings.model),
        }
        self._options = {
            "num_gpus": needs.get("GPU", 0),
            "num_cpus": needs.get("CPU", 0),
            "memory": needs.get("memory"),
            "max_restarts": -1,
            "scheduling_strategy": "SPREAD",
        }
        self._actors: list[Any] = []

    async def place(self) -> None:
        """Let Ray choose the machines, and check each of them before a worker starts.

        Raises:
            Refused: A machine does not have the data directory, or none is free.
        """
        remote = ray.remote(WorkerActor).options(**self._options)
        self._actors = [remote.remote() for _ in range(self._settings.workers)]
        try:
            await asyncio.gather(*(self._check_machine(actor) for actor in self._actors))
        except EndedEarly as problem:
            raise Refused(str(problem)) from None

    async def _check_machine(self, actor: Any) -> None:
        """Wait until ACTOR has a machine, and check that."""
        check = actor.check_folder.options(max_task_retries=-1)
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await _result(check.remote(self._settings.data_dir))
        except TimeoutError:
            raise EndedEarly(
                f"For {PLACE_SECONDS:g} seconds no machine of the Ray cluster has had "
                f"{self._wanted} for a worker; end other work on it, or add machines"
            ) from None

    async def launch(self, index: int) -> RayWorker:
        """Start worker INDEX on its machine, and return it when it serves.

        Raises:
            Refused: It does not accept its settings, or its machine does not fit.
            EndedEarly: It ended before it served, or no machine has room for it.
        """
        actor = self._actors[index]
        await self._check_machine(actor)
        specification = spec_of(self._settings, index, **self._changes).model_dump_json()
        environment = {KEY: os.environ[KEY]} if KEY in os.environ else {}
        worker = RayWorker(actor, await _result(actor.start.remote(specification, environment)))
        await _check_reachable(worker)
        return worker


async def _result(reference: Awaitable[Any]) -> Any:
    """Return the result of a call of an actor.

    Raises:
        Refused: The actor refuses it.
        EndedEarly: The actor failed, or is lost.
    """
    try:
        return await reference
    except RayTaskError as problem:
        cause = problem.cause
        if isinstance(cause, Refused | EndedEarly):
            raise cause from None
        raise EndedEarly(f"{type(cause).__name__}: {cause}") from None
    except RayError as problem:
        # The last line is the reason.
        reason = str(problem).strip().splitlines()[-1]
        raise EndedEarly(f"Ray lost its actor: {type(problem).__name__}, {reason}") from None


async def _check_reachable(worker: RayWorker) -> None:
    try:
        async with httpx2.AsyncClient(timeout=CONNECT_SECONDS, trust_env=False) as http:
            await http.get(f"{worker.url}/api/v1/healthz")
    except httpx2.HTTPError as problem:
        await worker.stop()
        raise Refused(
            f"The router cannot reach a worker on {worker.url} ({type(problem).__name__}); open "
            "all ports between the machines of the Ray cluster"
        ) from None


def _absolute(pair: str) -> str:
    """Return `ID=PATH` with a path that does not depend on the working directory."""
    model_id, _, location = pair.partition("=")
    return f"{model_id}={Path(location).expanduser().absolute()}"
