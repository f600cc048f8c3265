"""From a checkpoint on the engine to an adapter among the job's files, by a runtime process.

The process (`python -m dreadnode_runtime export`) has a folder, and a key for the runs of its job.
It ends when whoever asks hangs up, and what it made is kept when all of it is there.
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
from dreadnode_api.checkpoints.choice import name_of
from dreadnode_api.db import Database
from dreadnode_api.errors import GatewayTimeout, TooManyRequests
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import Job, JobFile
from dreadnode_api.runtime_processes.confined import ask
from dreadnode_api.runtime_processes.environment import engine_environment, limits, refused
from dreadnode_api.settings import Settings

WAITING = 4
"""Requests that may wait for their turn."""
RETRY_SECONDS = 30


class ExportFailed(Exception):
    """The exporting process did not do its work, which is our bug and a 500."""


class Exports:
    """Exports checkpoints, a bounded number at once, and each of them once."""

    def __init__(self, settings: Settings, database: Database, store: BlobStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._room = asyncio.Semaphore(settings.exports_at_once)
        self._under_way: set[asyncio.Task[Any] | None] = set()
        # One export of a checkpoint at a time: whoever waits for it finds what it has made.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make(self, job: Job, checkpoint: Checkpoint) -> Sequence[JobFile]:
        """Return the files of CHECKPOINT's adapter, which the engine exports if it has to.

        Raises:
            TooManyRequests: as many others wait as may.
            GatewayTimeout: it took too long.
            BadGateway: the engine is away.
            Invalid: it refuses, or the weights are not numbers.
            Malformed: the job's files would be too many, or too large.
            ExportFailed: the process failed.
        """
        if len(self._under_way) >= self._settings.exports_at_once + WAITING:
            raise TooManyRequests(
                f"{len(self._under_way)} exports are under way or wait for their turn; try again "
                "in a minute",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        task = asyncio.current_task()
        self._under_way.add(task)
        turn = self._turns.setdefault(checkpoint.path, asyncio.Lock())
        try:
            async with asyncio.timeout(self._settings.export_timeout), turn:
                async with self._database.reading() as session:
                    now = await session.get_one(Checkpoint, (job.id, checkpoint.path))
                    found = await adapters.files_of(session, now)
                if found:
                    return found
                async with self._room:
                    return await self._make(job, checkpoint)
        except TimeoutError:
            raise GatewayTimeout(
                f"The engine did not export the checkpoint within "
                f"{self._settings.export_timeout:.0f} s; try again when it has less to do, or "
                "raise `DREADNODE_EXPORT_TIMEOUT` on the server"
            ) from None
        finally:
            self._under_way.discard(task)

    async def close(self) -> None:
        """End what is under way, and leave nothing of it."""
        ending = [task for task in self._under_way if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _make(self, job: Job, checkpoint: Checkpoint) -> Sequence[JobFile]:
        with self._store.temporary_folder() as folder:
            await self._run(job, checkpoint, folder)
            made = {name: await self._written(folder / name) for name in adapters.FILES}
            async with self._database.writing() as session:
                return await adapters.keep(session, checkpoint, made, self._settings)

    async def _run(self, job: Job, checkpoint: Checkpoint, folder: Path) -> None:
        """Have the process write the adapter into FOLDER."""
        settings = self._settings
        question = {"checkpoint": checkpoint.path, "name": name_of(checkpoint)}
        size = min(settings.max_file_bytes, settings.job_disk_bytes)
        said = await ask(
            [*settings.runtime_command, "export"],
            json.dumps(question).encode(),
            folder=folder,
            environment=engine_environment(settings, job.lineage, folder),
            limits=limits(settings) | {"disk_bytes": size},
            seconds=settings.export_timeout,
        )
        try:
            answer: dict[str, Any] = json.loads(said.output)
            done = answer["ok"]
        except (ValueError, KeyError, TypeError) as error:
            raise ExportFailed(
                f"the export ended with {said.code}: {said.complaint[-2000:]!r}"
            ) from error
        if done is not True:
            raise refused(answer)

    async def _written(self, file: Path) -> Incoming:
        try:
            return await to_thread.run_sync(self._store.hashed, file)
        except FileNotFoundError as error:
            raise ExportFailed(f"the export has no {file.name}") from error
