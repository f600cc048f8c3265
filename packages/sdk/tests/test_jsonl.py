"""What is found out about a file before it is sent."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from dreadnode.datasets.files import collect, default_ref, format_of
from dreadnode.datasets.jsonl import VERSION, check, is_path, parse_ref
from dreadnode.errors import InputError, UnusableFile


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_valid_file_is_hashed_with_its_blank_lines(tmp_path: Path) -> None:
    content = '{"a": 1}\n\n{"b": "é"}'.encode()

    assert check(written(tmp_path / "rows.jsonl", content)) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"a": 1}\nhello\n', "line 2: not JSON"),
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        (b'[{"a": 1}]\n', "line 1: a list instead of an object"),
        (b'{"a": 1}\n"text"\n', "line 2: a string instead"),
        (b"1\n", "line 1: a number instead"),
        (b"null\n", "line 1: null instead"),
        (b'{"a": NaN}\n', "line 1: not JSON .NaN is not a JSON number"),
        (b'{"a": "\xff"}\n', "line 1: not UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_the_first_invalid_line_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(UnusableFile, match=sentence):
        check(written(tmp_path / "rows.jsonl", content))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.jsonl"):
        with pytest.raises(UnusableFile, match="cannot be read"):
            check(path)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("rows.jsonl", "rows"),
        ("My Rows (2).jsonl", "my-rows-2"),
        ("Größe.jsonl", "gr-e"),
        ("....jsonl", "rows"),
        ("x" * 200 + ".jsonl", "x" * 100),
    ],
)
def test_every_file_name_becomes_a_valid_dataset_name(tmp_path: Path, file: str, name: str) -> None:
    path = written(tmp_path / file, b"{}\n")
    made, version = default_ref(path, collect(path))

    assert made == name
    assert parse_ref(f"{made}@{version}") == (made, version)
    assert VERSION.fullmatch(version)


@pytest.mark.parametrize(
    "text", ["", "a", "a@", "@1", "a@latest", "A@1", "a b@1", "a@1@2", "acme/a@1", "a@-1", "-a@1"]
)
def test_a_reference_without_name_and_version_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_ref(text)


def test_a_path_is_distinguished_from_a_reference_by_its_form(tmp_path: Path) -> None:
    assert is_path("./rows")
    assert is_path("rows.jsonl")
    assert is_path(str(tmp_path / "x"))
    assert not is_path("support@1.0.0")
    assert not is_path("x" * 300)


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')

    assert check(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("rows.jsonl.gz", "jsonl.gz"),
        ("rows.ndjson.zst", "jsonl.zst"),
        ("ROWS.JSON.GZ", "json.gz"),
        ("rows.csv.zst", "csv.zst"),
        ("rows.parquet", "parquet"),
        ("rows.parquet.gz", None),
        ("rows.gz", None),
        ("rows.txt", None),
    ],
)
def test_a_file_name_determines_format_and_compression(name: str, format_: str | None) -> None:
    assert format_of(Path(name)) == format_


def test_compressed_files_of_a_folder_are_splits(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (tmp_path / "validation.csv.zst").write_bytes(b"some bytes")

    found = collect(tmp_path)

    assert {name: file.format for name, file in found.items()} == {
        "train": "jsonl.gz",
        "validation": "csv.zst",
    }
    assert is_path("rows.jsonl.gz")
