"""Several files in one request."""

from __future__ import annotations

import email
from pathlib import Path
from typing import Any

import pytest
from dreadnode import AsyncApiClient
from dreadnode.datasets.files import collect
from dreadnode.errors import UnusableFile
from dreadnode.http.multipart import CHUNK, Form


async def test_a_form_is_as_long_as_it_says_and_the_same_awaited(tmp_path: Path) -> None:
    big, small = tmp_path / "big", tmp_path / "small"
    big.write_bytes(b"x\r\n" * CHUNK)
    small.write_bytes(b"")
    form = Form({"train": (big, "train.csv"), "test": (small, "test.jsonl")})

    body = b"".join(form.chunks())

    assert len(body) == form.length
    assert b"".join([chunk async for chunk in form.async_chunks()]) == body
    head = f"Content-Type: {form.content_type}\r\n\r\n".encode()
    first, second = email.message_from_bytes(head + body).get_payload()
    assert first.get_payload(decode=True) == big.read_bytes()
    assert (first.get_filename(), second.get_filename()) == ("train.csv", "test.jsonl")


def test_a_file_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    form = Form({"train": (tmp_path / "gone", "train.csv")})

    with pytest.raises(UnusableFile, match="gone cannot be read: No such file"):
        _ = form.length
    with pytest.raises(UnusableFile, match="gone cannot be read: No such file"):
        list(form.chunks())


async def test_an_awaited_client_sends_every_split_too(tmp_path: Path, api: Any) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "test.csv").write_text("prompt\nb\n")
    client = AsyncApiClient(
        "http://server.test", "dn_test", organization="main", transport=api.transport
    )

    async with client:
        stored = await client.push_dataset("rows", "1", collect(tmp_path))

    assert [(split.name, split.format) for split in stored.splits] == [
        ("test", "csv"),
        ("train", "jsonl"),
    ]
    assert api.splits["rows", "1"]["test"] == ("test.csv", b"prompt\nb\n")
