"""Exports a checkpoint from the engine to an adapter among the files of its job.

A runtime process (`python -m dreadnode_runtime export`) does it, with a folder and a key for the
runs of its job. It ends when the caller disconnects, and its files are stored once all are there.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from anyio import to_thread

from dreadnode_api.blob_store import BlobStore, Incoming
from dreadnode_api.checkpoints import adapters
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.db import Database
from dreadnode_api.errors import GatewayTimeout
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.runtime_processes.command import CommandFailed, run_command
from dreadnode_api.settings import Settings

MAX_WAITING = 4
"""How many exports of one organization may wait."""


class Exporter:
    """Exports checkpoints, a bounded number at once and each of them once."""

    def __init__(self, settings: Settings, database: Database, store: BlobStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._queue = FairQueue(
            settings.exports_at_once,
            "exports",
            wait_seconds=settings.export_timeout,
            waiting=MAX_WAITING,
        )
        self._tasks: set[asyncio.Task[Any] | None] = set()
        # One export of a checkpoint at a time: the next caller finds its files.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def export(self, job: Job, checkpoint: Checkpoint) -> Sequence[JobFile]:
        """Return the files of CHECKPOINT's adapter, after an export if there are none.

        Raises:
            TooManyRequests: too many exports of the organization wait.
            GatewayTimeout: the export took too long.
            BadGateway: the engine does not answer.
            Invalid: the engine refuses, or the weights are not numbers.
            Malformed: the job would have too many files, or too large ones.
            CommandFailed: the process failed.
        """
        task = asyncio.current_task()
        self._tasks.add(task)
        lock = self._locks.setdefault(checkpoint.path, asyncio.Lock())
        try:
            async with asyncio.timeout(self._settings.export_timeout), lock:
                async with self._database.reading() as session:
                    current = await session.get_one(Checkpoint, (job.id, checkpoint.path))
                    found = await adapters.adapter_files(session, current)
                if found:
                    return found
                async with self._queue.slot(job.org_id):
                    return await self._export(job, checkpoint)
        except TimeoutError:
            raise GatewayTimeout(
                f"The engine did not export the checkpoint within "
                f"{self._settings.export_timeout:.0f} s; try again when it is less busy, or raise "
                "`DREADNODE_EXPORT_TIMEOUT` on the server"
            ) from None
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """End the running exports and delete their partial files."""
        running = [task for task in self._tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _export(self, job: Job, checkpoint: Checkpoint) -> Sequence[JobFile]:
        with self._store.temporary_folder() as folder:
            await self._run(job, checkpoint, folder)
            names = [*adapters.FILES, *(each.name for each in folder.glob(adapters.CARD))]
            files = {name: await self._written(folder / name) for name in names}
            async with self._database.writing() as session:
                return await adapters.store_adapter(session, checkpoint, files, self._settings)

    async def _run(self, job: Job, checkpoint: Checkpoint, folder: Path) -> None:
        """Let a runtime process write the adapter into FOLDER."""
        request = {"checkpoint": checkpoint.path, "name": checkpoint_name(checkpoint)}
        await run_command(self._settings, "export", request, job.lineage, folder)

    async def _written(self, file: Path) -> Incoming:
        try:
            return await to_thread.run_sync(self._store.hashed, file)
        except FileNotFoundError as error:
            raise CommandFailed(f"the export has no {file.name}") from error
