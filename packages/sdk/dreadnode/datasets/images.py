"""Images in a pushed folder: rows name them by path, and are sent with the images in them."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode.errors import UnusableFile, reason_of

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
"""How the name of an image ends, and what it is."""
_NAMES = ("image", "image_url", "url", "path")
"""Fields whose text may be the path of an image; so may the entries of `images`."""


@dataclass(frozen=True)
class Inlined:
    """A file of rows with their images in them; it is deleted with `folder`."""

    path: Path
    sha256: str
    folder: tempfile.TemporaryDirectory[str]


def is_image(path: Path) -> bool:
    """Return whether the name of PATH is that of an image."""
    return path.suffix.lower() in MEDIA_TYPES


def holds_only_images(folder: Path) -> bool:
    """Return whether FOLDER has files and every one, at any depth, is an image."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return bool(files) and all(map(is_image, files))


def with_images(rows: Path, root: Path) -> Inlined | None:
    """Return a copy of the JSONL file ROWS with each image that it names by path as a `data:` URL.

    Args:
        rows: Has been checked: every line is an object.
        root: The pushed folder; paths are relative to it.

    Returns:
        None where no row names an image.

    Raises:
        UnusableFile: An image is not there, or lies outside of ROOT.
    """
    holder = tempfile.TemporaryDirectory(prefix="dreadnode-")
    target = Path(holder.name) / rows.name
    digest, changed = hashlib.sha256(), False
    with rows.open(encoding="utf-8-sig") as lines, target.open("wb") as out:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            found = _replaced(row, _Place(rows, number, root.resolve()))
            changed = changed or found != row
            written = json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
            digest.update(written)
            out.write(written)
    if changed:
        return Inlined(target, digest.hexdigest(), holder)
    holder.cleanup()
    return None


@dataclass(frozen=True)
class _Place:
    rows: Path
    line: int
    root: Path


def _replaced(value: Any, place: _Place) -> Any:
    if isinstance(value, dict):
        return {name: _field(name, each, place) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, place) for each in value]
    return value


def _field(name: str, value: Any, place: _Place) -> Any:
    if name == "images" and isinstance(value, list):
        return [
            _path(each, place) if isinstance(each, str) else _replaced(each, place)
            for each in value
        ]
    if name in _NAMES and isinstance(value, str):
        return _path(value, place)
    return _replaced(value, place)


def _path(text: str, place: _Place) -> str:
    """Return the image at the path TEXT as a `data:` URL; TEXT itself where it is not a path."""
    if ":" in text or not is_image(Path(text)):
        return text
    file = (place.root / text).resolve()
    where = f"{place.rows}, line {place.line}: the image `{text}`"
    if not file.is_relative_to(place.root):
        raise UnusableFile(f"{where} lies outside of {place.root}; copy it into the folder")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnusableFile(f"{where} cannot be read: {reason_of(error)}") from error
    kind = MEDIA_TYPES[file.suffix.lower()]
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
