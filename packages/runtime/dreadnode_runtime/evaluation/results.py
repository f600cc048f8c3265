"""The results of single rows, stored with the job as they come.

A part is a file of a few results. An attempt that follows a killed one reads the parts, so that
the rows in them are neither computed nor paid for again.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreadnode_runtime.control.api import JobApi

FOLDER = "evaluation/"
PARTS = f"{FOLDER}parts/"
MAX_PARTS = 500
"""The API stores at most 1,000 files of a job."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """What one model got on one row.

    Attributes:
        model: Number of the model, from 0.
        row: Number of the row, from 1.
        loss: Sum of the losses of its tokens; None if the row has no answer.
        tokens: Number of those tokens.
        rewards: One for each completion.
        completions: Their texts, as the reward got them; None where the reasoning never ended.
        truncated: Number of completions that were cut at the token limit.
        sampled_tokens: Tokens of the completions.
        errors: Number of completions on which the user's own reward failed.
    """

    model: int
    row: int
    loss: float | None = None
    tokens: int = 0
    rewards: list[float] = field(default_factory=list)
    completions: list[str | None] = field(default_factory=list)
    truncated: int = 0
    sampled_tokens: int = 0
    errors: int = 0

    @property
    def mean_loss(self) -> float | None:
        """The loss per token."""
        return None if self.loss is None else self.loss / self.tokens

    @property
    def reward(self) -> float | None:
        """The mean reward of the completions."""
        return sum(self.rewards) / len(self.rewards) if self.rewards else None


class ResultStore:
    """Keeps results, and stores them in parts.

    Args:
        api: The files of the job.
        folder: A local folder for the parts.
        total: Number of all results that there will be.
    """

    def __init__(self, api: JobApi, folder: Path, total: int) -> None:
        self._api = api
        self._folder = folder
        self._results: dict[tuple[int, int], RowResult] = {}
        self._pending: list[RowResult] = []
        self._parts = 0
        self._size = -(-total // MAX_PARTS)
        self._uploading = asyncio.Lock()

    async def load(self) -> None:
        """Read the results of earlier attempts."""
        paths = await self._api.files(PARTS)
        for path in paths:
            for line in (await self._api.file(path)).splitlines():
                self._keep(RowResult(**json.loads(line)))
        self._parts = max((int(Path(path).stem) for path in paths), default=0)

    def has(self, model: int, row: int) -> bool:
        """Whether MODEL has a result on ROW."""
        return (model, row) in self._results

    async def add(self, result: RowResult) -> None:
        """Keep RESULT, and store a part if there are enough new results."""
        self._keep(result)
        self._pending.append(result)
        if len(self._pending) >= self._size:
            await self.flush()

    async def flush(self) -> None:
        """Store the results that are in no part yet."""
        async with self._uploading:
            if not self._pending:
                return
            pending, self._pending = self._pending, []
            self._parts += 1
            file = self._folder / "part.jsonl"
            await asyncio.to_thread(write_lines, file, map(asdict, pending))
            await self._api.upload(f"{PARTS}{self._parts:06d}.jsonl", file)

    def in_order(self) -> list[RowResult]:
        """Return all results, by row and model."""
        return [self._results[key] for key in sorted(self._results, key=lambda key: key[::-1])]

    def of(self, model: int) -> list[RowResult]:
        """Return the results of MODEL, by row."""
        return [each for each in self.in_order() if each.model == model]

    def __len__(self) -> int:
        return len(self._results)

    def _keep(self, result: RowResult) -> None:
        self._results[result.model, result.row] = result


def write_lines(file: Path, values: Iterable[Any]) -> None:
    """Write VALUES to FILE, as one JSON object a line."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in values)
