"""Adapters on their way: from the engine to the files of a job, and from a user to the engine.

Runtime processes (`python -m dreadnode_runtime export | upload`) do both, with a folder and a key
for the runs of one job or for a new one. They end when the caller disconnects. The files of an
export are stored once all are there; the engine compares an upload with the base model.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from anyio import to_thread

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.blob_store import BlobStore, Incoming
from dreadnode_api.checkpoints import adapters
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineModel
from dreadnode_api.errors import GatewayTimeout
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.http.deps import in_application
from dreadnode_api.models.adapters import UploadedAdapter
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.runtime_processes.command import CommandFailed, run_command
from dreadnode_api.runtime_processes.environment import engine_environment, job_limits
from dreadnode_api.settings import Settings

KEPT = timedelta(days=30)
"""How long an uploaded adapter is kept."""
MAX_WAITING = 4
"""How many exports of one organization may wait, and how many uploads."""


class AdapterTransfers:
    """Exports checkpoints and uploads adapters, a bounded number of each at once."""

    def __init__(self, settings: Settings, database: Database, store: BlobStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._exports, self._uploads = (
            FairQueue(
                settings.exports_at_once,
                work,
                wait_seconds=settings.export_timeout,
                waiting=MAX_WAITING,
            )
            for work in ("exports", "uploads of adapters")
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
        lock = self._locks.setdefault(checkpoint.path, asyncio.Lock())
        async with self._in_time("The engine did not export the checkpoint", "it"), lock:
            async with self._database.reading() as session:
                current = await session.get_one(Checkpoint, (job.id, checkpoint.path))
                found = await adapters.adapter_files(session, current)
            if found:
                return found
            async with self._exports.slot(job.org_id):
                return await self._export(job, checkpoint)

    async def upload(
        self, scope: WorkspaceScope, served: EngineModel, folder: Path
    ) -> tuple[UploadedAdapter, list[str]]:
        """Upload the adapter in FOLDER, which is for the model SERVED, and record it.

        Returns:
            The adapter, and the layers that it has no weights for.

        Raises:
            Invalid: the adapter is not one of the model.
            BadGateway: the engine does not answer.
            GatewayTimeout: it takes too long.
            TooManyRequests: too many uploads of the organization wait.
        """
        lineage = new_id()
        request = {
            "base_model": served.model_name,
            "ttl_seconds": int(KEPT.total_seconds()),
            "own_engine": served.uploads,
        }
        async with (
            self._in_time("The adapter was not uploaded", "the engine"),
            self._uploads.slot(scope.org_id),
        ):
            done = await self._run("upload", request, lineage, folder)
        names = ("path", "rank", "train_mlp", "train_attn", "train_unembed")
        row = UploadedAdapter(
            org_id=scope.org_id,
            lineage=lineage,
            base_model=served.model_name,
            created_by=scope.caller.user_id,
            expires_at=now() + KEPT,
            **{name: done[name] for name in names},
        )
        async with self._database.writing() as session:
            session.add(row)
        return row, done["new_layers"]

    async def close(self) -> None:
        """End what is running and delete its partial files."""
        running = [task for task in self._tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @asynccontextmanager
    async def _in_time(self, late: str, whom: str) -> AsyncIterator[None]:
        """Bound the time of the block, which `close` ends; LATE and WHOM are of its error."""
        seconds, task = self._settings.export_timeout, asyncio.current_task()
        self._tasks.add(task)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise GatewayTimeout(
                f"{late} within {seconds:.0f} s; try again when {whom} is less busy, or raise "
                "`DREADNODE_EXPORT_TIMEOUT` on the server"
            ) from None
        finally:
            self._tasks.discard(task)

    async def _export(self, job: Job, checkpoint: Checkpoint) -> Sequence[JobFile]:
        request = {"checkpoint": checkpoint.path, "name": checkpoint_name(checkpoint)}
        with self._store.temporary_folder() as folder:
            await self._run("export", request, job.lineage, folder)
            names = [*adapters.FILES, *(each.name for each in folder.glob(adapters.CARD))]
            files = {name: await self._written(folder / name) for name in names}
            async with self._database.writing() as session:
                return await adapters.store_adapter(session, checkpoint, files, self._settings)

    async def _written(self, file: Path) -> Incoming:
        try:
            return await to_thread.run_sync(self._store.hashed, file)
        except FileNotFoundError as error:
            raise CommandFailed(f"the export has no {file.name}") from error

    async def _run(
        self, command: str, request: Mapping[str, Any], lineage: str, folder: Path
    ) -> dict[str, Any]:
        """Run a command of the runtime that may access the runs of LINEAGE on the engine."""
        settings = self._settings
        size = min(settings.max_file_bytes, settings.job_disk_bytes)
        return await run_command(
            settings,
            command,
            request,
            folder=folder,
            environment=engine_environment(settings, lineage, folder),
            limits=job_limits(settings) | {"disk_bytes": size},
            seconds=settings.export_timeout,
        )


InTransfers = Annotated[AdapterTransfers, in_application("transfers")]
