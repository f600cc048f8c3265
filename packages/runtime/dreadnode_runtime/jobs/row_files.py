"""The files of rows that a job trains on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAJECTORIES = "trajectory_dataset_refs"


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows.

    Attributes:
        path: Where it is.
        name: Name of its dataset, where there are several.
        field: The setting that names it.
    """

    path: Path
    name: str = ""
    field: str = "dataset_ref"


def checked_files(datasets: Mapping[str, Any], field: str, name: str) -> list[RowFile]:
    """Return the training data of a check: the file that FIELD names, and those of trajectories.

    The check does not know the names of the datasets; it calls the first one NAME.
    """
    found = [(datasets["train"], name, field)] if datasets.get("train") else []
    found += [
        (path, f"trajectory dataset {number}", TRAJECTORIES)
        for number, path in enumerate(datasets.get("trajectories") or (), 1)
    ]
    several = len(found) > 1
    return [RowFile(Path(path), title if several else "", of) for path, title, of in found]
