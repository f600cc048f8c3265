"""What nobody asks for any more is not computed: dead clients, closed ones, cancelled samples."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tinker
from tinker import types

KEY = "tml-master-key-of-the-tests"
ENGINE_ARGUMENTS = ("--unpolled-seconds", "2", "--cleanup-seconds", "0.1")
PROMPT = types.ModelInput.from_ints([5, 6, 7])
CONTEXT = 4096
SHORT = types.SamplingParams(max_tokens=100, stop=[])
LONG = types.SamplingParams(max_tokens=4000, stop=[])
MEDIUM = types.SamplingParams(max_tokens=1500, stop=[])
"""Long enough to be cancelled, and short enough to be awaited."""
SAMPLES = 256
"""So many LONG samples keep any engine busy for much longer than these tests wait."""
CLIENT = f"""
import tinker
from tinker import types
client = tinker.ServiceClient().create_sampling_client(base_model="tiny/llama").result()
prompt, params = types.ModelInput.from_ints([5, 6]), types.SamplingParams(max_tokens=4000, stop=[])
futures = [client.sample(prompt, {SAMPLES}, params) for _ in range(8)]
futures[-1].result()
"""


@pytest.fixture(scope="module")
def models_dir(make_models_dir: Callable[[int], Path]) -> Path:
    """The tiny models of the other tests, with the context that LONG samples need."""
    return make_models_dir(CONTEXT)


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until TRUE, and fail if it does not come in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.05)


@pytest.fixture
def states(engine: Any) -> Callable[[], dict[str, int]]:
    """Return how many samples that this test asked for are in each state."""
    db = sqlite3.connect(engine.data_dir / "engine.sqlite3")
    samples = "SELECT state, count(*) FROM requests WHERE kind = 'sample' AND created > ?"
    started = time.time()
    return lambda: dict(db.execute(f"{samples} GROUP BY state", (started,)).fetchall())


def cpu_seconds(engine: Any) -> float:
    """Return the processor time that the engine has used."""
    fields = Path(f"/proc/{engine.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_samples_of_a_killed_client_are_cancelled_and_others_continue(
    engine: Any, states: Callable[[], dict[str, int]], request: pytest.FixtureRequest
) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env=os.environ | {"TINKER_BASE_URL": engine.url, "TINKER_API_KEY": KEY},
    )
    request.addfinalizer(client.kill)
    until(lambda: states() == {"queued": 8})
    # Longer than nobody may have asked.
    time.sleep(3)
    while_it_lived = states()

    client.kill()
    client.wait()
    until(lambda: "queued" not in states())

    assert while_it_lived == {"queued": 8}
    assert states() == {"dropped": 8}
    used = cpu_seconds(engine)
    time.sleep(0.5)
    assert cpu_seconds(engine) - used < 0.4
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    sampler = service.create_sampling_client(base_model="tiny/llama").result()
    assert len(sampler.sample(PROMPT, 1, SHORT).result().sequences[0].tokens) == 100


@pytest.fixture
def http(engine: Any) -> httpx2.Client:
    return httpx2.Client(base_url=f"{engine.url}/api/v1/", headers={"X-API-Key": KEY}, timeout=30)


def ask(http: httpx2.Client, samples: int = 1, seq: int = 1) -> tuple[str, dict[str, Any]]:
    """Ask for samples by plain HTTP; return the id of the request and its body."""
    session = http.post("create_session", json={"tags": [], "sdk_version": "x"}).json()
    made = http.post(
        "create_sampling_session",
        json={
            "session_id": session["session_id"],
            "sampling_session_seq_id": 0,
            "base_model": "tiny/llama",
        },
    ).json()
    body = {
        "sampling_session_id": made["sampling_session_id"],
        "seq_id": seq,
        "num_samples": samples,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]},
        "sampling_params": {"max_tokens": 4000, "stop": []},
    }
    return http.post("asample", json=body).json()["request_id"], body


def test_a_cancelled_sample_is_deleted_and_can_be_requested_again(http: httpx2.Client) -> None:
    request, body = ask(http, SAMPLES)

    assert http.post("cancel_future", json={"request_id": request}).status_code == 204
    gone = http.post("retrieve_future", json={"request_id": request})
    assert http.post("cancel_future", json={"request_id": request}).status_code == 204
    small = body | {"num_samples": 1, "sampling_params": {"max_tokens": 100, "stop": []}}
    # The same number again, whatever it asks for now: the first request counts for nothing.
    again = http.post("asample", json=small).json()
    answer = http.post("retrieve_future", json={"request_id": again["request_id"]})

    assert gone.status_code == 410
    assert "was dropped" in gone.json()["detail"]
    assert again["request_id"] == request
    assert answer.headers["content-type"] == "application/x-protobuf"
    late = http.post("cancel_future", json={"request_id": request})
    assert late.status_code == 204
    assert http.post("retrieve_future", json={"request_id": request}).content == answer.content


STREAM = {
    "base_model": "tiny/llama",
    "num_samples": 2,
    "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]},
    "sampling_params": {"max_tokens": 100, "stop": [], "seed": 3},
}


def test_a_stream_sends_the_tokens_of_the_sample_with_the_same_seed(
    http: httpx2.Client, engine: Any
) -> None:
    sampler = tinker.ServiceClient(base_url=engine.url, api_key=KEY).create_sampling_client(
        base_model="tiny/llama"
    )
    params = types.SamplingParams(max_tokens=100, stop=[], seed=3)
    expected = sampler.result().sample(types.ModelInput.from_ints([5, 6]), 2, params).result()

    with http.stream("POST", "sample_stream", json=STREAM) as response:
        *parts, last = [json.loads(line) for line in response.iter_lines()]
    tokens: list[list[int]] = [[], []]
    for part in parts:
        tokens[part["index"]] += part["tokens"]

    whole = [list(sequence.tokens) for sequence in expected.sequences]
    assert [sequence["tokens"] for sequence in last["sequences"]] == whole
    # The tokens of the last steps may come with the result only.
    assert [each[: len(part)] for each, part in zip(whole, tokens, strict=True)] == tokens
    assert min(map(len, tokens)) > 50


def test_a_stream_ends_with_its_connection(
    http: httpx2.Client, states: Callable[[], dict[str, int]]
) -> None:
    long = STREAM | {"num_samples": SAMPLES, "sampling_params": {"max_tokens": 4000, "stop": []}}

    with http.stream("POST", "sample_stream", json=long) as response:
        next(response.iter_lines())
        while_connected = states()

    assert while_connected == {"queued": 1}
    until(lambda: states() == {"dropped": 1})


def test_an_invalid_stream_is_refused_in_one_sentence(http: httpx2.Client) -> None:
    bodies = [STREAM | {"base_model": "no/model"}, STREAM | {"num_samples": 0}]
    bodies += [STREAM | {"seq_id": 1}, {**STREAM, "base_model": None}]

    refused = [http.post("sample_stream", json=body) for body in bodies]

    assert [response.status_code for response in refused] == [400, 400, 400, 400]
    assert "Leave out `seq_id`" in refused[2].json()["detail"]


def test_only_ones_own_samples_can_be_cancelled(http: httpx2.Client) -> None:
    session = http.post("create_session", json={"tags": [], "sdk_version": "x"}).json()
    run = http.post(
        "create_model",
        json={
            "session_id": session["session_id"],
            "model_seq_id": 0,
            "base_model": "tiny/llama",
            "lora_config": {"rank": 2},
        },
    ).json()["request_id"]

    trained = http.post("cancel_future", json={"request_id": run})
    unknown = http.post("cancel_future", json={"request_id": "nobody:sample:0:1"})

    assert trained.status_code == 400
    assert "Only sampling requests" in trained.json()["detail"]
    assert unknown.status_code == 404


def test_a_client_that_disconnects_ends_its_poll(
    http: httpx2.Client, states: Callable[[], dict[str, int]]
) -> None:
    request, _ = ask(http, SAMPLES)

    # A poll is held for 25 seconds, and a sample that somebody waits for is never given up.
    with pytest.raises(httpx2.ReadTimeout):
        http.post("retrieve_future", json={"request_id": request}, timeout=3)
    while_it_asked = states()
    until(lambda: states() == {"dropped": 1})

    assert while_it_asked == {"queued": 1}


def test_a_sample_whose_future_is_cancelled_stops(
    engine: Any, states: Callable[[], dict[str, int]]
) -> None:
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    sampler = service.create_sampling_client(base_model="tiny/llama").result()
    future = sampler.sample(PROMPT, SAMPLES, LONG)
    until(lambda: states() == {"queued": 1})

    future.future().cancel()

    until(lambda: states() == {"dropped": 1})


def test_the_sdk_requests_a_sample_again_that_was_cancelled_on_the_engine(
    engine: Any, http: httpx2.Client, states: Callable[[], dict[str, int]]
) -> None:
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    sampler = service.create_sampling_client(base_model="tiny/llama").result()
    db = sqlite3.connect(engine.data_dir / "engine.sqlite3")
    future = sampler.sample(PROMPT, 2, MEDIUM)
    until(lambda: states() == {"queued": 1})
    (request,) = db.execute("SELECT id FROM requests WHERE state = 'queued'").fetchone()

    http.post("cancel_future", json={"request_id": request})

    assert len(future.result().sequences) == 2
