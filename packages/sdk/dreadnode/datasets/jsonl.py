"""What can be said about a dataset's file before it is sent anywhere."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dreadnode.errors import InputError, UnusableFile

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
FILES = tuple(
    suffix + compression
    for suffix in (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
    for compression in ("", ".gz", ".zst")
    if suffix != ".parquet" or not compression
)
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")


@dataclass(frozen=True)
class Checked:
    """A file of JSON lines that has been read to its end and found to be good.

    Attributes:
        path: The file.
        rows: How many rows it holds.
        bytes: Its size.
        sha256: The digest of its bytes.
    """

    path: Path
    rows: int
    bytes: int
    sha256: str


def check(path: Path) -> Checked:
    """Read PATH to its end: UTF-8, one JSON object on each line, at least one of them.

    Raises:
        UnusableFile: It is something else; the sentence names the first line that is.
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
                    _object(path, number, line)
                    rows += 1
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {_reason(error)}") from error
    if not rows:
        raise UnusableFile(f"{path} is empty; it takes one JSON object on each line")
    return Checked(path, rows, size, digest.hexdigest())


def _object(path: Path, number: int, line: bytes) -> None:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UnusableFile(
            f"{path}, line {number}: not JSON ({reason}); JSONL holds one object on each line"
        ) from error
    if not isinstance(row, dict):
        found = {list: "a list", str: "a string", type(None): "null"}.get(type(row), "a number")
        raise UnusableFile(
            f"{path}, line {number}: {found} where an object belongs; JSONL holds one object, in "
            "braces, on each line"
        )


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def parse_ref(text: str) -> tuple[str, str]:
    """Split NAME@VERSION.

    Raises:
        InputError: A part is missing, or is not what names and versions are made of.
    """
    name, at, version = text.partition("@")
    if not at or not version:
        raise InputError(
            f"`{text}` names no version; write NAME@VERSION, or the path of a file "
            f"(`dn dataset get {name or 'NAME'}` lists the versions)"
        )
    if version == "latest":
        raise InputError(
            f"`{text}`: a job names its data exactly, and `latest` would change under it; "
            f"`dn dataset get {name}` lists the versions"
        )
    if not NAME.fullmatch(name):
        raise InputError(
            f"`{name}` cannot be the name of a dataset: lower-case letters, digits and . _ - only"
        )
    if not VERSION.fullmatch(version):
        raise InputError(
            f"`{version}` cannot be a version: letters, digits and . + - only, at most 64 of them"
        )
    return name, version


def is_path(text: str) -> bool:
    """Tell whether TEXT, given where a dataset belongs, means a file or a folder."""
    return "/" in text or text.endswith(FILES) or ("@" not in text and Path(text).exists())
