"""What a query asks for is done or refused: no parameter is passed over."""

import re
from typing import Any

import httpx2
import pytest

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = one_database


def refusal(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_misspelled_filter_is_refused_with_the_intended_one(api: Any) -> None:
    body = refusal(await api("GET", f"{api.jobs}?sttaus=failed"))

    assert body == {
        "code": 422,
        "type": "validation_error",
        "detail": "`sttaus`: unknown parameter; did you mean `status`?",
        "errors": [
            {
                "loc": ["query", "sttaus"],
                "msg": "unknown parameter; did you mean `status`?",
                "type": "extra_forbidden",
            }
        ],
    }


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("{jobs}?page_sise=1", "page_size"),
        ("{jobs}?Status=failed", "status"),
        ("{jobs}/none/logs?tial=1", "tail"),
        ("/org/acme/datasets/rows/1.0.0/content?spilt=test", "split"),
        ("/training/catalog?familly=qwen", "family"),
        ("/training/catalog/Qwen/Qwen3-8B?expend=all", "expand"),
    ],
)
async def test_the_nearest_parameter_of_the_route_is_named(api: Any, path: str, near: str) -> None:
    body = refusal(await api("GET", path.format(jobs=api.jobs)))

    assert body["detail"].endswith(f": unknown parameter; did you mean `{near}`?")


async def test_an_unknown_parameter_without_a_near_one_should_be_left_out(api: Any) -> None:
    body = refusal(await api("GET", "/user?status=failed"))

    assert body["detail"] == ("`status`: unknown parameter; remove it or correct its name")


async def test_each_unknown_parameter_has_its_own_error(api: Any) -> None:
    query = "page=1&first=1&second&third=&first=2&fourth=4"

    body = refusal(await api("GET", f"{api.jobs}?{query}"))

    assert [each["loc"] for each in body["errors"]] == [
        ["query", name] for name in ("first", "second", "third", "fourth")
    ]
    assert {each["type"] for each in body["errors"]} == {"extra_forbidden"}
    assert body["detail"].endswith("; and 1 more")


async def test_the_prepared_catalog_response_is_used_only_for_the_identical_query(
    api: Any,
) -> None:
    for _ in range(2):
        assert (await api("GET", "/training/catalog?limit=5")).is_success

    refusal(await api("GET", "/training/catalog?limit=5&x=1"))


@pytest.mark.parametrize("key", [None, "dn_wrong"])
async def test_parameters_are_not_revealed_without_a_token(api: Any, key: str | None) -> None:
    answer = await api("GET", f"{api.jobs}?sttaus=failed", key=key)

    assert answer.status_code == 401
    assert "sttaus" not in answer.text


async def test_a_request_with_an_unknown_parameter_creates_nothing(api: Any) -> None:
    await api.push()
    wish = {"model": "Qwen/Qwen3-8B", "trainer_type": "sft"}
    wish |= {"config": {"dataset_ref": {"name": "rows", "version": "1.0.0"}}}

    refusal(await api("POST", f"{api.jobs}?dry_run=true", json=wish))
    refusal(await api("PUT", "/org/acme/datasets/rows/2.0.0?split=test", content=b'{"a": 1}\n'))

    assert await api.count() == 0
    assert (await api("GET", "/org/acme/datasets/rows/2.0.0")).status_code == 404


async def test_a_hostile_parameter_name_is_refused_plainly_and_quickly(api: Any) -> None:
    names = {"[/red]": 1, "\ud800".encode("utf-8", "surrogatepass"): 1, "\x1bc\0": 1}
    names |= {"page_size" * 3000: 1}

    body = refusal(await api("GET", api.jobs, params=names))

    assert len(body["errors"]) == len(names)
    assert len(body["detail"]) < 1000
    assert not re.search(r"[\[\]\x00-\x1f]", body["detail"])


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs"])
async def test_routes_of_probes_and_browsers_accept_any_query(api: Any, path: str) -> None:
    assert (await api.client.get(f"{path}?unknown_parameter=1")).is_success


async def test_a_registry_upload_accepts_the_parameters_of_its_protocol(api: Any) -> None:
    path = "/acme/desk/blobs/uploads/?mount=sha256:0&from=other"

    assert (await api("POST", path)).status_code == 202
