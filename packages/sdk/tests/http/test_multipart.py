"""Several files in one request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode import ApiClient, AsyncApiClient
from dreadnode.datasets.files import collect
from dreadnode.errors import UnusableFile


def write_splits(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "test.csv").write_text("prompt\nb\n" * 50_000)


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_attempt_sends_every_split_with_the_length(
    tmp_path: Path, api: Any, is_async: bool
) -> None:
    write_splits(tmp_path)
    options: Any = {"organization": "main", "transport": api.transport}
    api.failures = [httpx2.WriteError("dropped")]

    if is_async:
        async with AsyncApiClient("http://server.test", "dn_test", **options) as client:
            stored = await client.push_dataset("rows", "1", collect(tmp_path))
    else:
        with ApiClient("http://server.test", "dn_test", **options) as other:
            stored = other.push_dataset("rows", "1", collect(tmp_path))

    assert [(split.name, split.format) for split in stored.splits] == [
        ("test", "csv"),
        ("train", "jsonl"),
    ]
    assert api.splits["rows", "1"]["test"] == ("test.csv", b"prompt\nb\n" * 50_000)
    assert len({each.headers["content-length"] for each in api.requests}) == 1


def test_a_missing_split_is_an_error_of_the_client(tmp_path: Path, api: Any) -> None:
    write_splits(tmp_path)
    files = collect(tmp_path)
    (tmp_path / "test.csv").unlink()
    client = ApiClient(
        "http://server.test", "dn_test", organization="main", transport=api.transport
    )

    with pytest.raises(UnusableFile, match=r"test\.csv cannot be read: No such file"):
        client.push_dataset("rows", "1", files)


def test_the_suffix_of_a_path_is_its_format_and_what_is_not_a_file_of_rows_is_refused(
    tmp_path: Path, api: Any
) -> None:
    write_splits(tmp_path)
    client = ApiClient(
        "http://server.test", "dn_test", organization="main", transport=api.transport
    )

    (tmp_path / "test.tsv").write_text("prompt\tresponse\n")

    client.push_dataset("rows", "1", tmp_path / "test.csv")
    with pytest.raises(UnusableFile, match="collect"):
        client.push_dataset("rows", "2", tmp_path)
    with pytest.raises(UnusableFile, match=r'line 1: .*`upload_dataset\(path, kind="csv"\)`'):
        client.push_dataset("rows", "3", tmp_path / "test.tsv")

    assert [each.headers["content-type"] for each in api.requests] == ["text/csv"]
