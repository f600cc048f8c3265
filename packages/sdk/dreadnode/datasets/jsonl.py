"""Checks of a dataset's name and of its JSONL files, before a push."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dreadnode.errors import InputError, UnusableFile, reason_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
FILES = tuple(
    suffix + compression
    for suffix in (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
    for compression in ("", ".gz", ".zst")
    if suffix != ".parquet" or not compression
)
"""Suffixes of files that can be pushed."""


@dataclass(frozen=True)
class CheckedFile:
    """A valid JSONL file.

    Attributes:
        path: The file.
        rows: The number of its rows.
        bytes: Its size.
        sha256: The digest of its bytes.
    """

    path: Path
    rows: int
    bytes: int
    sha256: str


def check(path: Path) -> CheckedFile:
    """Read all of PATH and require UTF-8 with at least one line, each line a JSON object.

    Raises:
        UnusableFile: It is not; the message names the first wrong line.
    """
    digest, rows, size = hashlib.sha256(), 0, 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                size += len(line)
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    _require_object(path, number, line)
                    rows += 1
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {reason_of(error)}") from error
    if not rows:
        raise UnusableFile(f"{path} is empty; JSONL needs one JSON object on each line")
    return CheckedFile(path, rows, size, digest.hexdigest())


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
    if not NAME.fullmatch(name):
        raise InputError(
            f"`{name}` is not a valid dataset name: use lower-case letters, digits and . _ - only"
        )
    if not VERSION.fullmatch(version):
        raise InputError(
            f"`{version}` is not a valid version: use at most 64 letters, digits and . + - only"
        )
    return name, version


def is_path(text: str) -> bool:
    """Return whether TEXT, as a dataset, means a file or a folder and not NAME@VERSION."""
    return "/" in text or text.endswith(FILES) or ("@" not in text and Path(text).exists())
