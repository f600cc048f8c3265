"""Datasets: immutable, checked line by line, never half there."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

ROW = b'{"prompt": "a", "response": "b"}\n'
PATH = "/org/acme/datasets/rows/1.0.0"


async def test_a_pushed_version_comes_back_byte_for_byte(api: Any) -> None:
    body = ROW * 3 + b"\n" + ROW.strip()

    pushed = await api("PUT", PATH, content=body)

    assert pushed.status_code == 201
    made = pushed.json()
    assert (made["name"], made["version"], made["rows"]) == ("rows", "1.0.0", 4)
    assert (made["bytes"], made["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert (await api("GET", PATH)).json() == made
    assert (await api("GET", f"{PATH}/content", key="reader")).content == body


async def test_pushing_the_same_bytes_again_gives_the_same_version(api: Any) -> None:
    first = await api("PUT", PATH, content=ROW)
    again = await api("PUT", PATH, content=ROW)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


async def test_a_version_never_changes(api: Any) -> None:
    await api("PUT", PATH, content=ROW)

    refused = await api("PUT", PATH, content=ROW * 2)

    assert (refused.status_code, refused.json()["type"]) == (409, "conflict_error")
    assert (await api("GET", f"{PATH}/content")).content == ROW


async def test_concurrent_pushes_create_a_version_once(api: Any) -> None:
    answers = await asyncio.gather(*(api("PUT", PATH, content=ROW) for _ in range(5)))

    assert max(answer.status_code for answer in answers) in (200, 201)
    assert {answer.status_code for answer in answers} <= {200, 201}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The dataset is empty; it needs one JSON object on each line"),
        (b"\n\n  \n", "The dataset is empty; it needs one JSON object on each line"),
        (ROW + b"{oops}\n", "Line 2 is not JSON"),
        (ROW + b"[1, 2]\n", "Line 2 is not a JSON object"),
        (ROW * 2 + b"\xff\xfe{}\n", "Line 3 is not UTF-8"),
        (b'{"a": NaN}\n', "Line 1 is not JSON (JSON has no NaN)"),
        (b"[" * 200_000 + b"\n", "Line 1 is nested too deeply"),
        (b'{"a": "' + b"x" * 9_000_000, "Line 1 is longer than 8,388,608 bytes"),
        (b"a,b\n1,2\n", "Line 1 is not JSON"),
    ],
)
async def test_a_file_that_is_not_jsonl_is_refused_with_its_line(
    api: Any, body: bytes, detail: str
) -> None:
    refused = await api("PUT", PATH, content=body)

    assert (refused.status_code, refused.json()["type"]) == (422, "validation_error")
    assert refused.json()["detail"].startswith(detail)
    assert (await api("GET", PATH)).status_code == 404
    blobs = api.settings.data_dir / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []


async def test_rows_are_counted_across_chunk_boundaries(api: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in ROW * 2:
            yield bytes([byte])

    pushed = await api("PUT", PATH, content=pieces())

    assert (pushed.status_code, pushed.json()["rows"]) == (201, 2)


async def test_a_body_above_the_limit_is_refused_completely(api: Any) -> None:
    object.__setattr__(api.settings, "max_dataset_bytes", 100)

    refused = await api("PUT", PATH, content=ROW * 4)

    assert (refused.status_code, refused.json()["type"]) == (400, "invalid_error")
    assert (await api("GET", PATH)).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["Rows/1", "rows/latest", "a" * 101 + "/1", "rows/" + "1" * 65, ".rows/1", "rows/-1", "a%00/1"],
)
async def test_names_and_versions_must_match_their_pattern(api: Any, path: str) -> None:
    refused = await api("PUT", f"/org/acme/datasets/{path}", content=ROW)

    assert refused.status_code == 422


async def test_lists_show_the_newest_version_of_each_name(api: Any) -> None:
    for name, version in (("b", "1"), ("a", "1"), ("a", "2"), ("c", "1")):
        await api.push(name, version)

    page = (await api("GET", "/org/acme/datasets", params={"page_size": 2})).json()
    rest = (await api("GET", "/org/acme/datasets", params={"page_size": 2, "page": 2})).json()
    versions = (await api("GET", "/org/acme/datasets/a")).json()

    assert (page["total"], page["page"], page["page_size"]) == (3, 1, 2)
    assert [(d["name"], d["version"]) for d in page["items"]] == [("a", "2"), ("b", "1")]
    assert [d["name"] for d in rest["items"]] == ["c"]
    assert [d["version"] for d in versions["versions"]] == ["2", "1"]
    assert (await api("GET", "/org/acme/datasets", key="stranger")).status_code == 404


async def test_rows_that_no_job_can_use_are_refused_and_not_stored(api: Any) -> None:
    refused = await api("PUT", PATH, content=b'{"Frage": "2+2?", "Antwort": "4"}\n')
    found = await api("GET", "/org/acme/datasets/rows")

    assert refused.status_code == 422
    assert refused.json()["detail"] == "None of the rows has a known field"
    assert found.status_code == 404


async def test_a_push_names_the_unread_fields_of_the_rows(api: Any) -> None:
    stored = await api("PUT", PATH, content=ROW.replace(b"}", b', "context": "c"}'))

    assert stored.status_code == 201
    assert stored.json()["notes"] == ["not read: context, in 1 of 1 rows"]
