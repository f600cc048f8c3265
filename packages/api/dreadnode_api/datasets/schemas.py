"""Responses about datasets."""

import re

from pydantic import Field

from dreadnode_api.http.patterns import SPLIT
from dreadnode_api.http.schemas import Response, Timestamp


def is_split_name(text: str) -> bool:
    """Return whether TEXT can be the name of a split."""
    return re.fullmatch(SPLIT, text) is not None and "\n" not in text


class Split(Response):
    """One file of a dataset: as it was pushed, and as JSONL, which jobs read."""

    name: str
    format: str = Field(
        description="jsonl, json, csv or parquet, as it was pushed, with .gz or .zst behind it"
    )
    rows: int
    bytes: int = Field(description="Of the pushed file")
    sha256: str = Field(description="Of the pushed file")
    content_bytes: int = Field(description="Of its rows as JSONL")
    content_sha256: str = Field(description="Of its rows as JSONL, which jobs read")


class Dataset(Response):
    """One immutable version of a dataset."""

    name: str
    version: str
    format: str = Field(description="The format of its splits, or `mixed`")
    rows: int = Field(description="Of all its splits")
    bytes: int = Field(description="Of all its pushed files")
    sha256: str = Field(description="Of its file, or of the list of several files")
    splits: list[Split]
    created_at: Timestamp
    created_by: str | None
    notes: list[str] = Field(
        default_factory=list,
        description="What a push found out about the rows, such as fields that are not read",
    )


class DatasetList(Response):
    """A page of datasets, each with its newest version."""

    items: list[Dataset]
    total: int
    page: int
    page_size: int


class DatasetVersions(Response):
    """A dataset with all its versions, newest first."""

    name: str
    versions: list[Dataset]
