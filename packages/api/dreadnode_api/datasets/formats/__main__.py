"""`python -I -m dreadnode_api.datasets.formats FORMAT FROM TO LIMIT`: write a file's rows as JSONL.

Prints one JSON object: `rows`, `bytes` and `sha256` of what was written, or an `error` in one
sentence about the file. Runs as a process of its own, since what it reads is a stranger's.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dreadnode_api.datasets.formats import MAX_ROW_BYTES, Unreadable


def main(arguments: list[str]) -> int:
    """Convert as ARGUMENTS say, and print what came of it."""
    kind, source, target, limit = arguments
    try:
        told = convert(kind, Path(source), Path(target), int(limit))
    except Unreadable as error:
        told = {"error": str(error)}
    except MemoryError:
        told = {"error": "The file takes more memory to read than a conversion is given"}
    sys.stdout.write(json.dumps(told))
    return 0


def convert(kind: str, source: Path, target: Path, limit: int) -> dict[str, Any]:
    """Write the rows of SOURCE to TARGET as JSONL, and return their number, size and digest.

    Raises:
        Unreadable: the file is not of this kind, is empty, or its rows become more than LIMIT
            bytes.
    """
    digest, number, size = hashlib.sha256(), 0, 0
    with source.open("rb") as file, target.open("wb") as out:
        for text in _rows(kind, file):
            number += 1
            line = text.encode() + b"\n"
            size += len(line)
            if len(line) > MAX_ROW_BYTES:
                raise Unreadable(f"Row {number} is longer than {MAX_ROW_BYTES:,} bytes")
            if size > limit:
                raise Unreadable(f"The rows are more than the {limit:,} bytes that are taken here")
            digest.update(line)
            out.write(line)
        out.flush()
        os.fsync(out.fileno())
    if not number:
        raise Unreadable("The file holds no rows")
    return {"rows": number, "bytes": size, "sha256": digest.hexdigest()}


def _rows(kind: str, file: BinaryIO) -> Iterator[str]:
    # Each is imported only where it is needed: Arrow takes longer to load than most files to read.
    if kind == "json":
        from dreadnode_api.datasets.formats import json_array

        return json_array.rows(file)
    if kind == "csv":
        from dreadnode_api.datasets.formats import csv_table

        return csv_table.rows(file)
    if kind == "parquet":
        from dreadnode_api.datasets.formats import parquet

        return parquet.rows(file)
    raise ValueError(kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
