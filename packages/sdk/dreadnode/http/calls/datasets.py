"""Datasets, whose versions never change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, get, given, one, organization, segment

if TYPE_CHECKING:
    from dreadnode.datasets.files import Files
    from dreadnode.wire import Dataset, DatasetPage, DatasetVersions


CONVERSION_SECONDS = 330.0
"""Seconds that a server may take to read a file that was pushed."""


def push_dataset(scope: Scope, /, name: str, version: str, file: Path | Files) -> Call[Dataset]:
    """Store FILE, or the file of each split, as NAME@VERSION; the same bytes again change nothing.

    A path is a file of JSON lines; `dreadnode.datasets.files.collect` finds files of other formats.
    """
    call = Call[Any](
        "PUT",
        f"{organization(scope)}/datasets/{segment(name)}/{segment(version)}",
        one("wire", "Dataset"),
        content_type="application/x-ndjson",
        seconds=CONVERSION_SECONDS,
        repeatable=True,
    )
    if isinstance(file, Path):
        return replace(call, file=file)
    from dreadnode.datasets.files import MEDIA_TYPES, ONLY_SPLIT

    # A compressed file goes as a part, whose name says what it is.
    if list(file) == [ONLY_SPLIT] and file[ONLY_SPLIT].format in MEDIA_TYPES:
        only = file[ONLY_SPLIT]
        return replace(call, file=only.path, content_type=MEDIA_TYPES[only.format])
    from dreadnode.http.multipart import Form

    form = Form({split: (each.path, f"{split}.{each.format}") for split, each in file.items()})
    return replace(call, form=form, content_type=form.content_type)


def list_datasets(scope: Scope, /, *, page: int = 1, page_size: int = 20) -> Call[DatasetPage]:
    """The organization's datasets."""
    params = {"page": page, "page_size": page_size}
    return get(f"{organization(scope)}/datasets", one("wire", "DatasetPage"), params)


def get_dataset(scope: Scope, /, name: str) -> Call[DatasetVersions]:
    """A dataset with all its versions, newest first."""
    return get(f"{organization(scope)}/datasets/{segment(name)}", one("wire", "DatasetVersions"))


def get_dataset_version(scope: Scope, /, name: str, version: str) -> Call[Dataset]:
    """One version of a dataset."""
    path = f"{organization(scope)}/datasets/{segment(name)}/{segment(version)}"
    return get(path, one("wire", "Dataset"))


def dataset_content(
    scope: Scope, /, name: str, version: str, *, split: str | None = None
) -> Call[bytes]:
    """The rows of a split as JSONL; of the only split, or of `train`, if none is named."""
    path = f"{organization(scope)}/datasets/{segment(name)}/{segment(version)}/content"
    return get(path, bytes, given(split=split))
