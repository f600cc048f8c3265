"""Images of a pushed folder are sent within the rows that name them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from dreadnode.datasets.files import collect
from dreadnode.errors import UnusableFile

PNG = b"\x89PNG\r\n\x1a\n rest"
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    return tmp_path


def write(folder: Path, *rows: Any) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "named",
    [
        {"type": "image_url", "image_url": {"url": "pictures/a.png"}},
        {"type": "image", "image": "pictures/a.png"},
        {"images": ["pictures/a.png", {"path": "./pictures/a.png"}]},
    ],
)
def test_an_image_named_by_a_row_is_sent_within_it(folder: Path, named: Any) -> None:
    write(folder, {"messages": [{"role": "user", "content": [named]}]}, {"prompt": "a.png"})

    file = collect(folder)["train"]

    sent = file.path.read_bytes()
    expected = json.dumps(named).replace("./", "").replace("pictures/a.png", URL)
    first, second = map(json.loads, sent.splitlines())
    assert first["messages"][0]["content"] == [json.loads(expected)]
    assert second == {"prompt": "a.png"}
    assert file.sha256 == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pictures/b.png", "line 1: the image `pictures/b.png` cannot be read: no such file"),
        ("../a.png", "line 1: the image `../a.png` lies outside of"),
    ],
)
def test_a_missing_image_is_named(folder: Path, path: str, reason: str) -> None:
    write(folder, {"messages": [{"role": "user", "content": [{"image": path}]}]})

    with pytest.raises(UnusableFile, match=reason):
        collect(folder)


def test_images_that_no_row_names_are_reported(folder: Path) -> None:
    write(folder, {"prompt": "a", "response": "b"})

    with pytest.raises(UnusableFile, match="holds images, and no row"):
        collect(folder)


def test_a_folder_of_other_files_is_refused(folder: Path) -> None:
    (folder / "pictures" / "notes.txt").write_text("x")
    write(folder, {"prompt": "a", "response": "b"})

    with pytest.raises(UnusableFile, match="pictures is no"):
        collect(folder)
