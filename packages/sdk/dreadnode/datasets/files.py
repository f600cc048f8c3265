"""The files of a dataset: the split and the format of each, and the default name.

JSONL is checked completely before it is sent. The server checks the other formats when it converts
them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreadnode.datasets.images import Inlined, holds_only_images, is_image, with_images
from dreadnode.datasets.jsonl import COMPRESSIONS, FORMATS, check, compression_of, format_of
from dreadnode.errors import InputError, UnusableFile, reason_of

MEDIA_TYPES = {
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
ONLY_SPLIT = "train"
"""The split of a single file."""
SPLIT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_DIGEST_DIGITS = 12


@dataclass(frozen=True)
class DataFile:
    """The file of one split.

    Attributes:
        path: The file.
        format: jsonl, json, csv or parquet; of a compressed file `jsonl.gz` and so on.
        sha256: The digest of its bytes.
        images: Keeps the file, where it is a copy with the rows' images in it.
    """

    path: Path
    format: str
    sha256: str
    images: Inlined | None = field(default=None, compare=False, repr=False)


Files = Mapping[str, DataFile]
"""The file of each split."""


def collect(source: Path, splits: Sequence[str] = (), kind: str | None = None) -> Files:
    """Return the files of a dataset by split; each file is read once.

    Args:
        source: A file, which becomes the split `train`, or a folder, whose files are named like
            their splits.
        splits: Further files, each as SPLIT=FILE.
        kind: The format of all files; from each file's suffix if None.

    Raises:
        InputError: A split is named twice, or its name is not valid.
        UnusableFile: A file cannot be read, or its format is unknown.
    """
    paths = _folder(source) if source.is_dir() else {ONLY_SPLIT: source}
    for each in splits:
        name, equals, path = each.partition("=")
        if not equals or not path:
            raise InputError(f"`--split {each}`: write SPLIT=FILE, as in `validation=./val.csv`")
        if not SPLIT.fullmatch(name):
            raise InputError(
                f"`{name}` is not a valid split name: use lower-case letters, digits and . _ - only"
            )
        if name in paths:
            raise InputError(
                f"the split `{name}` is both {paths[name]} and {path}; name each split once"
            )
        paths[name] = Path(path)
    files = {name: _data_file(path, kind) for name, path in paths.items()}
    return _with_images(files, source) if source.is_dir() else files


def default_ref(source: Path, files: Files) -> tuple[str, str]:
    """Return a name from SOURCE's own name, and a version that depends on the content of FILES."""
    path = source.resolve() if source.is_dir() else source
    stem = path.name.split(".")[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:100] or "rows"
    if list(files) == [ONLY_SPLIT]:
        return name, files[ONLY_SPLIT].sha256[:_DIGEST_DIGITS]
    lines = sorted(f"{split} {file.format} {file.sha256}\n" for split, file in files.items())
    return name, hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGEST_DIGITS]


def single_file(path: Path) -> DataFile:
    """Return PATH with the format of its suffix; without a known one it must be JSONL.

    Raises:
        UnusableFile: PATH is a folder, or has another suffix and is not JSONL.
    """
    if path.is_dir():
        raise UnusableFile(
            f"{path} is a folder; pass `dreadnode.datasets.files.collect(folder)` to "
            "`push_dataset` to push one file for each split"
        )
    if known := format_of(path):
        return DataFile(path, known, sha256="")
    try:
        check(path)
    except UnusableFile as error:
        if not path.is_file():
            raise
        raise UnusableFile(
            f"{error}; if the file is JSON, CSV or Parquet, name its format: "
            '`upload_dataset(path, kind="csv")`'
        ) from error
    return DataFile(path, "jsonl", sha256="")


def form_files(files: Files) -> dict[str, tuple[Path, str]]:
    """Return the path of each split, and the file name that gives the server its format."""
    return {split: (file.path, f"{split}.{file.format}") for split, file in files.items()}


def _is_images(path: Path) -> bool:
    return holds_only_images(path) if path.is_dir() else is_image(path)


def _with_images(files: dict[str, DataFile], folder: Path) -> dict[str, DataFile]:
    """Return FILES with the images of FOLDER in the rows that name them.

    Raises:
        UnusableFile: There are images, and a row names one that is not there, or no row names any.
    """
    if not any(map(_is_images, folder.iterdir())):
        return files
    made: dict[str, DataFile] = {}
    for split, file in files.items():
        copy = with_images(file.path, folder) if file.format == "jsonl" else None
        if copy is not None:
            made[split] = DataFile(copy.path, file.format, copy.sha256, copy)
    if not made:
        raise UnusableFile(
            f"{folder} holds images, and no row of a .jsonl file in it names one by its path; "
            "name them in the rows, or move them away"
        )
    return {**files, **made}


def _folder(folder: Path) -> dict[str, Path]:
    """Return the files in FOLDER by split; a file that is not data is refused, not skipped."""
    found: dict[str, Path] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UnusableFile(f"{folder} cannot be read: {reason_of(error)}") from error
    for path in paths:
        if path.name.startswith(".") or _is_images(path):
            continue
        if path.is_dir() or format_of(path) is None:
            raise UnusableFile(
                f"{path} is not a {_suffixes()} file, but a pushed folder has one such file for "
                "each split; move it away, or name the files with `--split SPLIT=FILE`"
            )
        stem = Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem
        name = _SHARD.sub("", stem).lower()
        if not SPLIT.fullmatch(name):
            raise UnusableFile(
                f"{path}: `{name}` is not a valid split name (letters, digits and . _ - only); "
                "rename the file"
            )
        if name in found:
            raise UnusableFile(
                f"{found[name]} and {path} are both the split `{name}`; merge them into one file"
            )
        found[name] = path
    if not found:
        raise UnusableFile(f"{folder} has no {_suffixes()} file")
    return found


def _data_file(path: Path, kind: str | None) -> DataFile:
    known = format_of(path) if kind is None else kind + compression_of(path)
    if known in (None, "jsonl"):
        return DataFile(path, "jsonl", check(path))
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            is_empty = file.tell() == 0
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {reason_of(error)}") from error
    if is_empty:
        raise UnusableFile(f"{path} is empty")
    return DataFile(path, known or "", digest)


def _suffixes() -> str:
    *first, last = FORMATS
    return f"{', '.join(first)} or {last}"
