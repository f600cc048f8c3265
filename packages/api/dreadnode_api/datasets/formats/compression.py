"""Compressed files: `.gz` and `.zst` around a format of text, unpacked while they are read."""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from dreadnode_api.datasets.formats import Unreadable

SUFFIXES = {".gz": "gz", ".zst": "zst"}
ENCODINGS = {"gzip": "gz", "zstd": "zst"}
"""Compressions by the end of a file's name, and by the `Content-Encoding` of a body."""


def split_kind(kind: str) -> tuple[str, str | None]:
    """Return the format that KIND, such as `jsonl.gz`, holds, and its compression, if any."""
    inner, _, compression = kind.partition(".")
    return inner, compression or None


def unpacked(file: BinaryIO, compression: str) -> BinaryIO:
    """Return FILE without its COMPRESSION, read as far as it is needed."""
    if compression == "gz":
        return cast("BinaryIO", io.BufferedReader(gzip.GzipFile(fileobj=file)))
    import pyarrow as pa

    return cast("BinaryIO", io.BufferedReader(pa.CompressedInputStream(file, "zstd")))


def guarded(rows: Iterator[str], compression: str) -> Iterator[str]:
    """Yield ROWS of a compressed file.

    Raises:
        Unreadable: The file is not compressed so, or is damaged.
    """
    try:
        yield from rows
    except (OSError, EOFError, zlib.error) as error:
        name = {"gz": "gzip", "zst": "Zstandard"}[compression]
        reason = str(error).partition("\n")[0][:200].rstrip(".")
        raise Unreadable(f"The file cannot be read as {name} ({reason})") from None
