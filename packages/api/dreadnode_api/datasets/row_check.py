"""The check of a pushed dataset's rows: whether a job can use any, and what is not read of them.

It needs neither a model nor a tokenizer, and runs in a short-lived process of the runtime.
"""

import math

from dreadnode_api.datasets.push import UploadedSplit
from dreadnode_api.errors import Invalid, plain
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.runtime_processes.command import run_command
from dreadnode_api.runtime_processes.environment import clean_environment, job_limits
from dreadnode_api.runtime_processes.folder import process_folder
from dreadnode_api.settings import Settings
from dreadnode_api.uploads import NICENESS

MOST_ROWS = 100_000
"""How many rows of a split are read: a push waits for them."""


class RowCheck:
    """Checks the rows of pushed datasets, in the turns of the queue of uploads."""

    def __init__(self, settings: Settings, queue: FairQueue) -> None:
        self._settings = settings
        self._queue = queue

    async def check(self, org_id: str, splits: list[UploadedSplit]) -> list[str]:
        """Return what a person should know about the rows of SPLITS, one sentence each.

        Args:
            org_id: the organization whose turn in the queue is used.
            splits: what was uploaded.

        Raises:
            Invalid: No job could use a row of one of them; the sentence says why.
            CommandFailed: The process failed.
        """
        notes: list[str] = []
        for split in splits:
            prefix = f"Split `{split.name}`: " if len(splits) > 1 else ""
            try:
                found = await self._split(org_id, str(split.content.file.absolute()))
            except TimeoutError:
                found = [
                    "the rows take too long to read, so they are checked when a job is submitted"
                ]
            except Invalid as refused:
                raise Invalid(prefix + refused.detail) from None
            notes += [prefix + plain(note) for note in found]
        return notes

    async def _split(self, org_id: str, path: str) -> list[str]:
        seconds = self._settings.convert_timeout
        async with self._queue.slot(org_id):
            with process_folder(self._settings.data_dir, "rows-") as folder:
                answer = await run_command(
                    self._settings,
                    "rows",
                    {"path": path, "rows": MOST_ROWS},
                    folder=folder,
                    environment=clean_environment(self._settings, folder),
                    limits=job_limits(self._settings)
                    | {"cpu_seconds": math.ceil(seconds), "niceness": NICENESS},
                    seconds=seconds,
                )
        return [str(note) for note in answer["notes"]]
