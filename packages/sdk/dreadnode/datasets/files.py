"""Files that become a dataset: which split each is, in which format, and what can be said of it.

JSONL is read to its end before it is sent anywhere; what is wrong with a file of another format the
server says, which makes JSONL of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreadnode.datasets.jsonl import check
from dreadnode.errors import InputError, UnusableFile

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""How a file's name tells what it is."""
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
"""How the name of a compressed file of text ends, behind its format."""
MEDIA_TYPES = {
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
ONLY_SPLIT = "train"
"""What a single file becomes."""
SPLIT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_DIGEST_DIGITS = 12
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """A file that is to become a split.

    Attributes:
        path: The file.
        format: jsonl, json, csv or parquet; of a compressed file `jsonl.gz` and the like.
        sha256: The digest of its bytes.
    """

    path: Path
    format: str
    sha256: str


Files = Mapping[str, DataFile]
"""The file of each split."""


def collect(source: Path, splits: Sequence[str] = (), kind: str | None = None) -> Files:
    """Return the files of a dataset by split, each read once to its end.

    Args:
        source: A file, which becomes the split `train`, or a folder, in which the name of each file
            is that of its split.
        splits: Further files, each as SPLIT=FILE.
        kind: The format of all files; what each file's name says if None.

    Raises:
        InputError: The same split is named twice, or a name cannot be that of a split.
        UnusableFile: A file cannot be read, or is of no known format.
    """
    paths = _folder(source) if source.is_dir() else {ONLY_SPLIT: source}
    for each in splits:
        name, equals, path = each.partition("=")
        if not equals or not path:
            raise InputError(f"`--split {each}`: write SPLIT=FILE, as in `validation=./val.csv`")
        if not SPLIT.fullmatch(name):
            raise InputError(
                f"`{name}` cannot be the name of a split: lower-case letters, digits and . _ - only"
            )
        if name in paths:
            raise InputError(
                f"the split `{name}` would be both {paths[name]} and {path}; name each once"
            )
        paths[name] = Path(path)
    return {name: _file(path, kind) for name, path in paths.items()}


def default_ref(source: Path, files: Files) -> tuple[str, str]:
    """Return a name made of SOURCE's own, and a version that changes with the content of FILES."""
    path = source.resolve() if source.is_dir() else source
    stem = path.name.split(".")[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:100] or "rows"
    if list(files) == [ONLY_SPLIT]:
        return name, files[ONLY_SPLIT].sha256[:_DIGEST_DIGITS]
    lines = sorted(f"{split} {file.format} {file.sha256}\n" for split, file in files.items())
    return name, hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGEST_DIGITS]


def _folder(folder: Path) -> dict[str, Path]:
    """Return the files in FOLDER by split; one that is no data is refused, not passed over."""
    found: dict[str, Path] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UnusableFile(f"{folder} cannot be read: {_reason(error)}") from error
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir() or format_of(path) is None:
            raise UnusableFile(
                f"{path} is no {_list(FORMATS)} file, and a folder that is pushed holds one for "
                "each split; move it away, or name the files with `--split SPLIT=FILE`"
            )
        stem = Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem
        name = _SHARD.sub("", stem).lower()
        if not SPLIT.fullmatch(name):
            raise UnusableFile(
                f"{path}: `{name}` cannot be the name of a split (letters, digits and . _ - only); "
                "rename it"
            )
        if name in found:
            raise UnusableFile(
                f"{found[name]} and {path} are both the split `{name}`; put them into one file"
            )
        found[name] = path
    if not found:
        raise UnusableFile(f"{folder} holds no {_list(FORMATS)} file")
    return found


def format_of(path: Path) -> str | None:
    """Return the format that the name of PATH says, compression included; None where it does not.

    Parquet is compressed within, so a compressed Parquet file is none of them.
    """
    compression = _compression(path)
    inner = FORMATS.get(Path(path.stem if compression else path.name).suffix.lower())
    return None if inner is None or (compression and inner == "parquet") else inner + compression


def _compression(path: Path) -> str:
    found = COMPRESSIONS.get(path.suffix.lower())
    return f".{found}" if found else ""


def _file(path: Path, kind: str | None) -> DataFile:
    """Return what is known of PATH."""
    known = format_of(path) if kind is None else kind + _compression(path)
    if known in (None, "jsonl"):
        return DataFile(path, "jsonl", check(path).sha256)
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {_reason(error)}") from error
    if not size:
        raise UnusableFile(f"{path} is empty")
    return DataFile(path, known or "", digest.hexdigest())


def _list(names: Mapping[str, str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
