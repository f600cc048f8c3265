"""A dataset's name, the formats of its files, and the check of its JSONL files before a push."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from pathlib import Path
from typing import NoReturn

from dreadnode.errors import InputError, UnusableFile, reason_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""The format of each suffix."""
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
"""The suffixes of a compressed text file, after the suffix of its format."""


def check(path: Path) -> str:
    """Read all of PATH, require a JSON object in UTF-8 on each line, and return its SHA-256.

    Raises:
        UnusableFile: It is not; the message names the first wrong line.
    """
    digest, is_empty = hashlib.sha256(), True
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    _require_object(path, number, line)
                    is_empty = False
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {reason_of(error)}") from error
    if is_empty:
        raise UnusableFile(f"{path} is empty; JSONL needs one JSON object on each line")
    return digest.hexdigest()


def _require_object(path: Path, number: int, line: bytes) -> None:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UnusableFile(
            f"{path}, line {number}: not JSON ({reason}); JSONL needs one object on each line"
        ) from error
    if not isinstance(row, dict):
        found = {list: "a list", str: "a string", type(None): "null"}.get(type(row), "a number")
        raise UnusableFile(
            f"{path}, line {number}: {found} instead of an object; JSONL needs one object, in "
            "braces, on each line"
        )


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def parse_ref(text: str) -> tuple[str, str]:
    """Split the NAME@VERSION of a dataset.

    Raises:
        InputError: A part is missing or not valid.
    """
    name, at, version = text.partition("@")
    if not at or not version:
        raise InputError(
            f"`{text}` has no version; write NAME@VERSION, or the path of a file "
            f"(`dn dataset get {name or 'NAME'}` lists the versions)"
        )
    if version == "latest":
        raise InputError(
            f"`{text}`: a job needs an exact version, because `latest` can change; "
            f"`dn dataset get {name}` lists the versions"
        )
    return checked_ref("dataset", name, version)


def checked_ref(kind: str, name: str, version: str) -> tuple[str, str]:
    """Return NAME and VERSION if they are valid for a dataset or a capability, which KIND says.

    Raises:
        InputError: One is not valid.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"`{name}` is not a valid {kind} name: use lower-case letters, digits and . _ - only"
        )
    if not VERSION.fullmatch(version):
        raise InputError(
            f"`{version}` is not a valid version: use at most 64 letters, digits and . + - only"
        )
    return name, version


def is_path(text: str, folder: Path = Path()) -> bool:
    """Return whether TEXT, as a dataset, means a file or a folder and not NAME@VERSION.

    A relative path is relative to FOLDER.
    """
    if "/" in text or format_of(Path(text)) is not None:
        return True
    # Unlike Path.exists, this raises nothing for a name that no file can have.
    return "@" not in text and os.path.exists(folder / text)  # noqa: PTH110


def format_of(path: Path) -> str | None:
    """Return the format of PATH by its name, with its compression; None if it is unknown.

    Parquet compresses its own content, so a compressed Parquet file is not supported.
    """
    compression = compression_of(path)
    inner = FORMATS.get(Path(path.stem if compression else path.name).suffix.lower())
    return None if inner is None or (compression and inner == "parquet") else inner + compression


def compression_of(path: Path) -> str:
    """Return how PATH is compressed, as the end of a format: `.gz`, `.zst` or nothing."""
    found = COMPRESSIONS.get(path.suffix.lower())
    return f".{found}" if found else ""
