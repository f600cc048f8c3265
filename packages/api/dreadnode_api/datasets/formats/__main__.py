"""`python -I -m dreadnode_api.datasets.formats FORMAT FROM TO LIMIT`: read a dataset's file.

JSONL is only checked. The rows of every other format are written to TO as JSONL. It prints one JSON
object: `rows`, `bytes` and `sha256` of the JSONL, or an `error` in one sentence about the file. It
runs as a confined process, because the file comes from a client.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from dreadnode_api.datasets.formats import MAX_ROW_BYTES, Unreadable
from dreadnode_api.datasets.formats.compression import guarded, split_kind, unpacked

MAGIC = b"PAR1"
READERS = {"jsonl": "jsonl", "json": "json_array", "csv": "csv_table", "parquet": "parquet"}
"""The module that reads each format."""


def main(arguments: list[str]) -> int:
    """Read a file as ARGUMENTS say, and print the result."""
    kind, source, target, limit = arguments
    try:
        result = read(kind, Path(source), Path(target), int(limit))
    except Unreadable as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {"error": "Reading the file takes more memory than the limit"}
    sys.stdout.write(json.dumps(result))
    return 0


def read(kind: str, source: Path, target: Path, limit: int) -> dict[str, Any]:
    """Check SOURCE, write its rows to TARGET unless it is JSONL, and describe the rows as JSONL.

    Raises:
        Unreadable: the file is not of this kind, is empty, or its rows become more than LIMIT
            bytes.
    """
    with source.open("rb") as file:
        if kind == "jsonl":
            from dreadnode_api.datasets.formats import jsonl

            rows = jsonl.count(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"rows": rows, "bytes": file.tell(), "sha256": digest}
        with target.open("wb") as out:
            return _convert(kind, file, out, limit)


def _convert(kind: str, file: BinaryIO, out: BinaryIO, limit: int) -> dict[str, Any]:
    digest, number, size = hashlib.sha256(), 0, 0
    for text in _rows(kind, file):
        number += 1
        line = text.encode() + b"\n"
        size += len(line)
        if len(line) > MAX_ROW_BYTES:
            raise Unreadable(f"Row {number} is longer than {MAX_ROW_BYTES:,} bytes")
        if size > limit:
            raise Unreadable(f"The rows are more than the limit of {limit:,} bytes")
        digest.update(line)
        out.write(line)
    out.flush()
    os.fsync(out.fileno())
    if not number:
        raise Unreadable("The file has no rows")
    return {"rows": number, "bytes": size, "sha256": digest.hexdigest()}


def _rows(kind: str, file: BinaryIO) -> Iterator[str]:
    kind, compression = split_kind(kind)
    if compression is not None:
        return guarded(_rows(kind, unpacked(file, compression)), compression)
    if kind == "parquet" and not _is_parquet(file):
        raise Unreadable("The file is not Parquet; Parquet begins and ends with `PAR1`")
    # Imported only where needed: loading Arrow takes longer than reading most files.
    reader = import_module(f"dreadnode_api.datasets.formats.{READERS[kind]}")
    rows: Iterator[str] = reader.rows(file)
    return rows


def _is_parquet(file: BinaryIO) -> bool:
    first = file.read(len(MAGIC))
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - len(MAGIC), 0))
    last = file.read()
    file.seek(0)
    return size >= 12 and first == MAGIC == last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
