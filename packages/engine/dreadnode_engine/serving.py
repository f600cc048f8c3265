"""One engine in this process: models, a lock on the data directory, and a server until it ends."""

import asyncio
import logging
import signal
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from dreadnode_engine.base_models.discovery import ServedModel, find_models
from dreadnode_engine.errors import Refused
from dreadnode_engine.http.connection import Connection
from dreadnode_engine.service.keys import Keyring, master_key
from dreadnode_engine.settings import Settings
from dreadnode_engine.startup import (
    announce,
    end_with_parent,
    listen,
    lock_data_dir,
    without_collections,
)

log = logging.getLogger(__name__)


async def serve(settings: Settings, shared_dir: Path | None = None) -> int:
    """Serve until the process is asked to end, and return the exit code.

    Args:
        settings: of this engine.
        shared_dir: of an engine with several workers, of which this is one. It has the key and the
            converted models.
    """
    root = shared_dir or settings.data_dir
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = await lock_data_dir(settings.data_dir)
    keyring = Keyring(master_key(root))
    listening = listen(settings.host, settings.port)
    # Last, because a model that is converted takes a while.
    models = find_models(settings, root)
    # torch is imported late: a wrong argument is refused without the seconds that this takes.
    with without_collections():
        import torch

        from dreadnode_engine.http.app import create_app

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise Refused("`--device cuda` needs a CUDA GPU, and PyTorch finds none on this machine")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    _skip_untrainable(models, settings)
    app = create_app(settings, models, keyring, shared_dir)
    started = await run_server(app, listening)
    lock.close()
    return 0 if started else 1


def _skip_untrainable(models: dict[str, ServedModel], settings: Settings) -> None:
    """Delete MODELS that cannot be trained; refuse one that was named in SETTINGS."""
    from dreadnode_engine.compute.probe import check_architecture

    named = {pair.partition("=")[0] for pair in settings.model}
    for model_id, model in list(models.items()):
        try:
            check_architecture(model)
        except Refused as refusal:
            if model_id in named:
                raise
            log.warning("skipped: %s", refusal)
            del models[model_id]


async def run_server(app: Starlette, listening: socket.socket) -> bool:
    """Serve APP until the process is asked to end; return whether it has started."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
        http=Connection,
    )
    server = uvicorn.Server(config)
    end_with_parent()
    # uvicorn raises the signal that ended it a second time, when nothing is left to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    ready = asyncio.create_task(announce(server, listening))
    await server.serve(sockets=[listening])
    ready.cancel()
    return server.started
