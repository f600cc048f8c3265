"""A request that comes again because its answer was lost is the same request."""

from typing import Any

import httpx2
import pytest

KEY = "tml-master-key-of-the-tests"


@pytest.fixture
def http(engine: Any) -> httpx2.Client:
    return httpx2.Client(base_url=f"{engine.url}/api/v1/", headers={"X-API-Key": KEY}, timeout=30)


@pytest.fixture
def run(http: httpx2.Client) -> dict[str, str]:
    session = http.post("create_session", json={"tags": [], "sdk_version": "x"}).json()
    made = http.post(
        "create_model",
        json={
            "session_id": session["session_id"],
            "model_seq_id": 0,
            "base_model": "tiny/llama",
            "lora_config": {"rank": 4, "seed": 1},
        },
    ).json()
    return {"model_id": made["model_id"]}


def test_repeated_saves_for_one_sampler_are_the_same_save(
    http: httpx2.Client, run: dict[str, str]
) -> None:
    save = {**run, "seq_id": 1, "kind": "snapshot"}

    first, again = [
        http.post("save_weights_for_sampler", json={**save, "sampling_session_seq_id": number})
        for number in (3, 4)
    ]
    answers = [
        http.post("retrieve_future", json={"request_id": each.json()["request_id"]}).json()
        for each in (first, again)
    ]

    assert first.json()["request_id"] == again.json()["request_id"]
    assert answers[0] == answers[1]
    assert answers[0]["sampling_session_id"].endswith(":sample:3")


def test_a_different_save_under_the_same_number_is_refused(
    http: httpx2.Client, run: dict[str, str]
) -> None:
    first, other = [
        http.post("save_weights_for_sampler", json={**run, "seq_id": 1, "path": path})
        for path in ("one", "two")
    ]

    assert (first.status_code, other.status_code) == (200, 400)
    assert "belongs to another request" in other.json()["detail"]
