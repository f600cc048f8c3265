"""Datasets, whose versions never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import Call, dataset_content, get, organization, segment
from dreadnode.lazy_types import wire

if TYPE_CHECKING:
    from dreadnode.datasets.files import Files

CONVERSION_SECONDS = 330.0
"""Seconds that a server may take to read a pushed file."""


class AsyncDatasetMethods(AsyncRequests):
    """Methods for datasets."""

    async def push_dataset(self, name: str, version: str, file: Path | Files) -> wire.Dataset:
        """Store a dataset as NAME@VERSION; pushing the same content again has no effect.

        Args:
            name: The dataset.
            version: Its version.
            file: A file, whose suffix is its format; or the file of each split, from
                `dreadnode.datasets.files.collect`.

        Raises:
            UnusableFile: A file cannot be read.
        """
        from dreadnode.datasets.files import MEDIA_TYPES, ONLY_SPLIT, form_files, single_file

        call = Call(
            "PUT",
            f"{organization(self.scope)}/datasets/{segment(name)}/{segment(version)}",
            wire.Dataset.model_validate_json,
            seconds=CONVERSION_SECONDS,
            repeatable=True,
        )
        files = {ONLY_SPLIT: single_file(file)} if isinstance(file, Path) else file
        only = files.get(ONLY_SPLIT)
        # A compressed file is sent as a part of a form, whose file name gives its format.
        if len(files) == 1 and only and (media_type := MEDIA_TYPES.get(only.format)):
            call = replace(call, file=only.path, content_type=media_type)
        else:
            call = replace(call, files=form_files(files))
        return await self.send(call)

    async def upload_dataset(
        self,
        source: Path,
        name: str | None = None,
        version: str | None = None,
        *,
        splits: Sequence[str] = (),
        kind: str | None = None,
    ) -> wire.Dataset:
        """Store a file, or a folder with a file for each split, as a dataset.

        Args:
            source: The file or folder.
            name: The dataset; from the source's name if None.
            version: Its version; from the content if None, so the same content is the same version.
            splits: Further files, each as SPLIT=FILE.
            kind: The format of the files; from their suffixes if None.

        Raises:
            InputError: A split is named twice, or its name is not valid.
            UnusableFile: A file cannot be read, or its format is unknown.
        """
        from dreadnode.datasets.files import collect, default_ref

        files = collect(source, splits, kind)
        if name is None or version is None:
            name, version = default_ref(source, files)
        return await self.push_dataset(name, version, files)

    async def list_datasets(self, *, page: int = 1, page_size: int = 20) -> wire.DatasetPage:
        """List the organization's datasets."""
        path = f"{organization(self.scope)}/datasets"
        params = {"page": page, "page_size": page_size}
        return await self.send(get(path, wire.DatasetPage.model_validate_json, params))

    async def get_dataset(self, name: str) -> wire.DatasetVersions:
        """Return a dataset with all its versions, newest first."""
        path = f"{organization(self.scope)}/datasets/{segment(name)}"
        return await self.send(get(path, wire.DatasetVersions.model_validate_json))

    async def get_dataset_version(self, name: str, version: str) -> wire.Dataset:
        """Return one version of a dataset."""
        path = f"{organization(self.scope)}/datasets/{segment(name)}/{segment(version)}"
        return await self.send(get(path, wire.Dataset.model_validate_json))

    async def delete_dataset(self, name: str, version: str) -> wire.Dataset:
        """Delete one version of a dataset with its files, and return it.

        The same files can be pushed as this version again, other files cannot.

        Raises:
            ConflictError: A job that has not ended uses it.
        """
        path = f"{organization(self.scope)}/datasets/{segment(name)}/{segment(version)}"
        return await self.send(Call("DELETE", path, wire.Dataset.model_validate_json))

    async def dataset_content(self, name: str, version: str, *, split: str | None = None) -> bytes:
        """Return the rows of a split as JSONL; of the only split, or of `train`, if None."""
        return await self.send(dataset_content(self.scope, name, version, split=split))
