"""Exports a checkpoint from the engine to an adapter among the files of its job.

A runtime process (`python -m dreadnode_runtime export`) does it, with a folder and a key for the
runs of its job. It ends when the caller disconnects, and its files are stored once all are there.
"""

import asyncio
import json
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
from dreadnode_api.runtime_processes.child import run
from dreadnode_api.runtime_processes.environment import child_limits, engine_environment, refusal
from dreadnode_api.settings import Settings

MAX_WAITING = 4
"""How many exports of one organization may wait."""


class ExportFailed(Exception):
    """The process failed without a reason of its own, which is a bug and a 500."""


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
            ExportFailed: the process failed.
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
        settings = self._settings
        request = {"checkpoint": checkpoint.path, "name": checkpoint_name(checkpoint)}
        size = min(settings.max_file_bytes, settings.job_disk_bytes)
        result = await run(
            [*settings.runtime_command, "export"],
            json.dumps(request).encode(),
            folder=folder,
            environment=engine_environment(settings, job.lineage, folder),
            limits=child_limits(settings) | {"disk_bytes": size},
            seconds=settings.export_timeout,
        )
        try:
            response: dict[str, Any] = json.loads(result.stdout)
            done = response["ok"]
        except (ValueError, KeyError, TypeError) as error:
            raise ExportFailed(
                f"the export ended with {result.reason or result.code}: {result.stderr[-2000:]!r}"
            ) from error
        if done is not True:
            raise refusal(response)

    async def _written(self, file: Path) -> Incoming:
        try:
            return await to_thread.run_sync(self._store.hashed, file)
        except FileNotFoundError as error:
            raise ExportFailed(f"the export has no {file.name}") from error
