"""The files of an adapter on the server, and their names in a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field

from dreadnode.wire import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreadnode.training.checkpoints import CheckpointAdapter
    from dreadnode.training.jobs import JobFile


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter of a job.

    Attributes:
        folder: Their folder among the job's files.
        files: The files.
        weights: The exported checkpoint, if it is one.
    """

    folder: PurePosixPath
    files: list[JobFile]
    weights: CheckpointAdapter | None = None

    @property
    def name(self) -> str:
        """`adapter`, `best`, or the name of the checkpoint."""
        return self.folder.name

    def target(self, file: JobFile, folder: Path) -> Path:
        """Return the path of FILE in the local FOLDER."""
        return folder / PurePosixPath(file.path).relative_to(self.folder)


class ExportedFile(Response):
    """A file of an export, by its name in the export's folder."""

    path: str
    bytes: int


class ExportResult(Response):
    """An export of what a job trained, on this machine.

    Attributes:
        largest_difference: Between the logits of the export and the engine's; None unchecked.
        adapter_effect: The largest difference that the adapter makes to the base model's logits.
    """

    folder: str
    format: str
    files: list[ExportedFile] = Field(default_factory=list)
    largest_difference: float | None = None
    adapter_effect: float | None = None


def files_below(folder: PurePosixPath, files: Iterable[JobFile]) -> list[JobFile]:
    """Return those of FILES that are in FOLDER.

    Raises:
        ValueError: A path leaves its folder.
    """
    found = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the server names a file outside of its folder: {file.path!r}")
        if path.is_relative_to(folder) and path != folder:
            found.append(file)
    return found
