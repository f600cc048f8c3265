"""`dn engine serve` with several workers."""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dreadnode_engine.base_models.discovery import find_models
from dreadnode_engine.errors import Refused
from dreadnode_engine.service.keys import Keyring, master_key
from dreadnode_engine.serving import run_server
from dreadnode_engine.settings import Settings
from dreadnode_engine.startup import listen, lock_data_dir, without_collections
from dreadnode_engine.state.checkpoint_files import check_workers, worker_dir
from dreadnode_engine.workers.launching import Launcher, LocalLauncher
from dreadnode_engine.workers.placements import Placements, read_journals
from dreadnode_engine.workers.shared_folder import SharedFolder
from dreadnode_engine.workers.supervisor import Worker

if TYPE_CHECKING:
    # Ray is an optional dependency, and the router imports torch.
    from dreadnode_engine.workers.ray_launching import RayLauncher
    from dreadnode_engine.workers.router import Router

LOAD_SECONDS = 0.5
"""How often a worker is asked how busy it is."""
ORPHAN_SECONDS = 60.0
"""How long to wait for the workers of a router that was killed: they end when it does."""


async def serve_workers(settings: Settings) -> int:
    """Serve with several workers until the process is asked to end; return the exit code."""
    cluster = _join_cluster(settings) if settings.ray_address is not None else None
    shared_dir = settings.data_dir
    await asyncio.to_thread(shared_dir.mkdir, parents=True, exist_ok=True)
    folder = await SharedFolder.lock(shared_dir)
    try:
        check_workers(shared_dir, settings.workers)
        # torch is imported late: what is refused above does not wait for it.
        with without_collections():
            from dreadnode_engine.http.endpoint import Endpoint
            from dreadnode_engine.workers.app import create_router_app
            from dreadnode_engine.workers.capacity import memory_of_each
            from dreadnode_engine.workers.journals import Journals
            from dreadnode_engine.workers.router import Router

        keyring = Keyring(master_key(shared_dir))
        listening = listen(settings.host, settings.port)
        if cluster is not None:
            await cluster.place()
        # Converted here once; the workers find what was converted.
        models = find_models(settings, shared_dir)
        launcher = cluster or LocalLauncher(settings, memory_of_each(settings, models))
        placements = await _read_journals(shared_dir, settings.workers)
        workers = [Worker(index) for index in range(settings.workers)]
        router = Router(workers, placements, keyring, Journals(shared_dir))
        async with _running(router, launcher, folder):
            endpoint = Endpoint(shared_dir, keyring)
            app = create_router_app(router, endpoint, lambda: folder.problem)
            try:
                return 0 if await run_server(app, listening) else 1
            finally:
                await endpoint.close()
    finally:
        folder.close()


def _join_cluster(settings: Settings) -> "RayLauncher":
    if "workers" not in settings.model_fields_set:
        raise Refused("`--ray-address` needs `--workers N`: the number of workers on the cluster")
    if importlib.util.find_spec("ray") is None:
        raise Refused(
            "`--ray-address` needs Ray; install it with "
            "`pip install 'dreadnode-training-engine[ray]'`"
        )
    from dreadnode_engine.workers.ray_launching import RayLauncher

    return RayLauncher(settings)


async def _read_journals(shared_dir: Path, workers: int) -> Placements:
    """Read the journals once no worker of an earlier router writes to them."""
    for index in range(workers):
        own = worker_dir(shared_dir, index)
        own.mkdir(parents=True, exist_ok=True)
        (await lock_data_dir(own, seconds=ORPHAN_SECONDS)).close()
    return await asyncio.to_thread(read_journals, shared_dir, workers)


@contextlib.asynccontextmanager
async def _running(
    router: "Router", launcher: Launcher, folder: SharedFolder
) -> AsyncIterator[None]:
    """Keep the workers running, and end them afterwards.

    Raises:
        Refused: A worker does not accept its settings, or every worker dies at its start.
    """
    tasks = [asyncio.create_task(w.keep_running(launcher)) for w in router.workers]
    tasks += [asyncio.create_task(router.follow_load(w, LOAD_SECONDS)) for w in router.workers]
    tasks.append(asyncio.create_task(folder.watch()))
    try:
        await asyncio.gather(*(worker.settled.wait() for worker in router.workers))
        check_started(router.workers)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in router.workers))


def check_started(workers: Iterable[Worker]) -> None:
    """Refuse to serve if a worker does not accept its settings, or all die at their start."""
    for worker in workers:
        if worker.refusal is not None:
            raise Refused(f"Worker {worker.index} does not start: {worker.refusal}")
    if all(not worker.ready.is_set() for worker in workers):
        raise Refused("Every worker ended soon after its start; the lines above say why")
