"""Bad input: a 4xx or a failed promise with a sentence, never a 5xx, never a poisoned run."""

import hashlib
import hmac
import json
import math
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tinker
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

KEY = "tml-master-key-of-the-tests"
ROUTES = [
    "client/config",
    "client/dynamic_config",
    "telemetry",
    "create_session",
    "session_heartbeat",
    "create_model",
    "load_weights",
    "get_info",
    "forward_backward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "save_weights_external",
    "unload_model",
    "create_sampling_session",
    "asample",
    "retrieve_future",
    "cancel_future",
    "weights_info",
    "external_weights_upload_start",
    "external_weights_upload_finish",
    "checkpoints/search",
    "sessions/x/finish",
    "training_runs/x/checkpoints/weights/y/publish",
]
GARBAGE: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"{",
    b"\xff\xfe\x00",
    b'{"model_id": 5, "seq_id": "one", "session_id": [], "request_id": {}}',
    b'{"model_id": "\\ud800", "session_id": "\\ud800", "request_id": "\\ud800"}',
    b'{"tinker_path": "tinker://../../etc/passwd", "path": "tinker://a/weights/../../x"}',
    b"[" * 100_000,
    b'{"seq_id": 1e400, "model_id": "a\\u0000b"}',
]


@pytest.fixture
def http(engine: Any) -> httpx2.Client:
    return httpx2.Client(base_url=f"{engine.url}/api/v1/", headers={"X-API-Key": KEY}, timeout=30)


@pytest.fixture(scope="module")
def service(engine: Any) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=engine.url, api_key=KEY)


@pytest.fixture(scope="module")
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client("tiny/llama", rank=4, seed=1).result()


@pytest.mark.parametrize("route", ROUTES)
def test_invalid_bytes_never_cause_a_5xx(http: httpx2.Client, route: str) -> None:
    for body in GARBAGE:
        for content_type in ("application/json", "application/x-protobuf"):
            answer = http.post(route, content=body, headers={"Content-Type": content_type})

            assert answer.status_code < 500, (route, body[:50], answer.text)
            if answer.status_code >= 400:
                assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "training_runs?limit=-1",
        "training_runs?limit=many",
        "checkpoints?offset=99999999999999999999",
        f"training_runs?limit={'9' * 5000}",
        f"files/a/external_weights/b/adapter_config.json?expires={'9' * 5000}&signature=x",
        "training_runs/nobody",
        "training_runs/nobody/checkpoints",
        "training_runs/a/checkpoints/external_weights/..%2F..%2Fx/external_weights_urls",
        "samplers/nobody",
        "sessions/nobody",
        "files/a/external_weights/b/adapter_config.json?expires=99999999999&signature=x",
        "files/../../engine.key",
        "nowhere",
    ],
)
def test_unknown_addresses_return_4xx(http: httpx2.Client, path: str) -> None:
    assert 400 <= http.get(path).status_code < 500


def test_every_call_except_the_health_check_needs_a_key(engine: Any) -> None:
    for route in ROUTES:
        assert httpx2.post(f"{engine.url}/api/v1/{route}", json={}).status_code == 401
    for route in ("get_server_capabilities", "training_runs", "checkpoints", "sessions"):
        assert httpx2.get(f"{engine.url}/api/v1/{route}").status_code == 401
    assert httpx2.get(f"{engine.url}/api/v1/healthz").json() == {"status": "ok"}


def test_an_unknown_base_model_is_refused_with_the_available_models(
    service: tinker.ServiceClient,
) -> None:
    with pytest.raises(tinker.BadRequestError, match="tiny/llama, tiny/qwen3"):
        service.create_lora_training_client("meta-llama/Llama-9").result()
    with pytest.raises(tinker.BadRequestError, match="tiny/llama, tiny/qwen3"):
        service.create_sampling_client(base_model="meta-llama/Llama-9").result()


@pytest.mark.parametrize("rank", [0, -1, 129, 10**9])
def test_a_rank_out_of_range_is_refused(service: tinker.ServiceClient, rank: int) -> None:
    with pytest.raises(tinker.BadRequestError, match="from 1 to 128"):
        service.create_lora_training_client("tiny/llama", rank=rank).result()


def test_another_optimizer_is_refused(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="AdamW"):
        service.create_lora_training_client(
            "tiny/llama", optimizer=types.DimuonOptimizerConfig()
        ).result()


def good(seed: int = 0) -> types.Datum:
    tokens = np.random.default_rng(seed).integers(3, 90, 11)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={"target_tokens": tokens[1:]},
    )


def policy(**inputs: Any) -> types.Datum:
    arrays = {
        "target_tokens": np.full(4, 7),
        "logprobs": np.full(4, -4.0, np.float32),
        "advantages": np.ones(4, np.float32),
    }
    return types.Datum(
        model_input=types.ModelInput.from_ints([5, 6, 7, 8]), loss_fn_inputs=arrays | inputs
    )


def supervised(tokens: list[int], targets: list[int]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens),
        loss_fn_inputs={"target_tokens": np.array(targets)},
    )


BAD_DATA: dict[str, tuple[str, types.Datum, str]] = {
    "a-sequence-longer-than-the-context": (
        *("cross_entropy", supervised([5] * 129, [5] * 129), "has 129 tokens"),
    ),
    "a-token-id-out-of-range": ("cross_entropy", supervised([96], [5]), "token id 96"),
    "a-target-out-of-range": ("cross_entropy", supervised([5], [-7]), "token id -7"),
    "fewer-targets-than-tokens": ("cross_entropy", supervised([5, 6], [5]), "must be 2 integers"),
    "no-tokens": ("cross_entropy", supervised([], []), "is empty"),
    "advantages-that-are-not-numbers": (
        *("ppo", policy(advantages=np.full(4, math.nan, np.float32)), "not finite"),
    ),
    "infinite-logprobs": ("ppo", policy(logprobs=np.full(4, math.inf, np.float32)), "not finite"),
    "fewer-advantages-than-targets": (
        *("ppo", policy(advantages=np.ones(3, np.float32)), "has shape 3"),
    ),
    "no-logprobs": (
        "importance_sampling",
        supervised([5], [6]),
        "`logprobs` of datum 1 is missing",
    ),
    "a-loss-that-is-not-served": ("gspo", policy(), "gspo"),
}


@pytest.mark.parametrize(("loss_fn", "datum", "sentence"), BAD_DATA.values(), ids=BAD_DATA)
def test_an_invalid_datum_fails_its_future_and_leaves_the_run_unchanged(
    training: tinker.TrainingClient, loss_fn: str, datum: types.Datum, sentence: str
) -> None:
    before = training.forward([good()], "cross_entropy").result().metrics
    companion = policy() if loss_fn != "cross_entropy" else good()

    with pytest.raises(tinker.RequestFailedError, match=sentence) as failure:
        training.forward_backward([companion, datum], loss_fn).result()  # type: ignore[arg-type]

    assert failure.value.category == types.RequestErrorCategory.User
    after = training.forward([good()], "cross_entropy").result().metrics
    assert after == before


def test_an_image_is_refused_with_a_clear_message(training: tinker.TrainingClient) -> None:
    image = types.ImageChunk(data=b"x", format="png", expected_tokens=1)
    datum = types.Datum(
        model_input=types.ModelInput(chunks=[image]),
        loss_fn_inputs={"target_tokens": np.array([5])},
    )

    with pytest.raises(tinker.RequestFailedError, match="trains on text"):
        training.forward_backward([datum], "cross_entropy").result()


def test_a_step_with_invalid_settings_fails_and_keeps_the_gradients(
    training: tinker.TrainingClient,
) -> None:
    training.forward_backward([good()], "cross_entropy").result()

    with pytest.raises(tinker.RequestFailedError, match="learning_rate"):
        training.optim_step(types.AdamParams(learning_rate=-1.0)).result()

    metrics = training.optim_step(types.AdamParams(learning_rate=1e-4)).result().metrics
    assert metrics is not None
    assert metrics["grad_norm"] > 0


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 300, "a b"])
def test_a_checkpoint_name_with_special_characters_is_refused(
    training: tinker.TrainingClient, name: str
) -> None:
    with pytest.raises((tinker.RequestFailedError, ValueError), match="cannot name a checkpoint"):
        training.save_weights_for_sampler(name).result()


def test_a_name_is_used_once_unless_overwriting_is_allowed(
    training: tinker.TrainingClient,
) -> None:
    first = training.save_state("once").result().path

    with pytest.raises(tinker.RequestFailedError, match="exists; choose another name"):
        training.save_state("once").result()

    assert training.save_state("once", overwrite=True).result().path == first


@pytest.mark.parametrize(
    "path",
    [
        "tinker://nobody:train:0/weights/x",
        "tinker://nobody:train:0/weights",
        "tinker://../weights/x",
        "https://example.com/weights",
    ],
)
def test_a_missing_checkpoint_is_refused(service: tinker.ServiceClient, path: str) -> None:
    with pytest.raises((tinker.NotFoundError, tinker.BadRequestError, ValueError)):
        service.create_training_client_from_state(path).result()
    with pytest.raises((tinker.NotFoundError, tinker.BadRequestError, ValueError)):
        service.create_sampling_client(model_path=path).result()


def test_weights_without_an_optimizer_cannot_be_resumed_with_one(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_weights_for_sampler("no-optimizer").result().path

    with pytest.raises(tinker.BadRequestError, match="has no optimizer state"):
        service.create_training_client_from_state_with_optimizer(path).result()


BAD_PROMPTS: dict[str, tuple[list[int], types.SamplingParams, str]] = {
    "a-prompt-longer-than-the-context": (
        [5] * 129,
        types.SamplingParams(max_tokens=1),
        "exceed the context",
    ),
    "no-room-for-the-answer": (
        [5] * 120,
        types.SamplingParams(max_tokens=50),
        "exceed the context",
    ),
    "a-token-id-out-of-range": ([500], types.SamplingParams(max_tokens=1), "token id 500"),
    "a-negative-temperature": (
        *([5], types.SamplingParams(max_tokens=1, temperature=-1.0), "temperature"),
    ),
}


@pytest.mark.parametrize(("tokens", "params", "sentence"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_a_sampling_request_that_cannot_be_served_is_refused_immediately(
    service: tinker.ServiceClient, tokens: list[int], params: types.SamplingParams, sentence: str
) -> None:
    sampler = service.create_sampling_client(base_model="tiny/llama").result()

    with pytest.raises(tinker.BadRequestError, match=sentence):
        sampler.sample(types.ModelInput.from_ints(tokens), 1, params).result()


def test_the_checkpoint_path_of_another_owner_looks_like_a_missing_one(
    engine: Any, training: tinker.TrainingClient
) -> None:
    path = training.save_state("not-yours").result().path
    subject = f"somebody.{int(time.time()) + 600}"
    signature = hmac.new(KEY.encode(), subject.encode(), hashlib.sha256).hexdigest()
    key = f"tml-run.{subject}.{signature}"
    stranger = tinker.ServiceClient(base_url=engine.url, api_key=key)
    own = stranger.create_lora_training_client("tiny/llama", rank=2).result()
    before = own.forward([good()], "cross_entropy").result().metrics

    for call in (
        lambda: stranger.create_training_client_from_state(path).result(),
        lambda: stranger.create_sampling_client(model_path=path).result(),
    ):
        with pytest.raises(tinker.NotFoundError, match="does not exist"):
            call()
    for path_of in (path, "tinker://nobody:train:0/weights/x"):
        with pytest.raises(tinker.RequestFailedError, match="does not exist"):
            own.load_state(path_of).result()

    # The operations that come next do not wait for those.
    assert own.forward([good()], "cross_entropy").result().metrics == before


def test_a_missing_sequence_number_is_awaited_and_a_repeated_one_runs_once(
    http: httpx2.Client,
) -> None:
    run = _run(http)

    late = http.post("save_weights", json={"model_id": run, "seq_id": 2, "path": "b"})
    first = [
        http.post("save_weights", json={"model_id": run, "seq_id": 1, "path": "a"})
        for _ in range(2)
    ]
    other = http.post("save_weights", json={"model_id": run, "seq_id": 1, "path": "c"})

    assert late.status_code == 200
    assert first[0].json() == first[1].json()
    assert (other.status_code, _result(http, run, 2).json()["path"][-1]) == (400, "b")
    listed = http.get(f"training_runs/{run}/checkpoints").json()["checkpoints"]
    assert [checkpoint["checkpoint_id"] for checkpoint in listed] == ["weights/b", "weights/a"]


def _session(http: httpx2.Client) -> str:
    answer = http.post("create_session", json={"tags": [], "sdk_version": "x"})
    return str(answer.json()["session_id"])


def _run(http: httpx2.Client) -> str:
    body = {
        "session_id": _session(http),
        "model_seq_id": 0,
        "base_model": "tiny/llama",
        "lora_config": {"rank": 2},
    }
    return str(http.post("create_model", json=body).json()["model_id"])


def _result(http: httpx2.Client, run: str, seq: int) -> httpx2.Response:
    return http.post("retrieve_future", json={"request_id": f"{run}:{seq}"})


def _forward(run: str, seq: int) -> pb.ForwardBackwardRequest:
    message = pb.ForwardBackwardRequest(model_id=run, seq_id=seq, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array([5, 6], np.int32).tobytes()
    datum.loss_fn_inputs["target_tokens"].CopyFrom(
        pb.Tensor(dense=np.array([6, 7]).tobytes(), dtype=pb.DTYPE_INT64, shape=[2])
    )
    return message


def _send(http: httpx2.Client, content: bytes, **headers: str) -> httpx2.Response:
    base = {"Content-Type": "application/x-protobuf"}
    return http.post("forward_backward", content=content, headers=base | headers)


def test_corrupt_protobuf_is_refused_and_damaged_tensors_fail(http: httpx2.Client) -> None:
    run = _run(http)
    whole = _forward(run, 1).SerializeToString()
    odd, short, wrong_type, sparse = (_forward(run, seq) for seq in (1, 2, 3, 4))
    odd.data[0].model_input[0].encoded_text.tokens = b"\1\2\3"
    short.data[0].loss_fn_inputs["target_tokens"].dense = b"\0" * 12
    wrong_type.data[0].loss_fn_inputs["target_tokens"].dtype = pb.DTYPE_BFLOAT16
    sparse.data[0].loss_fn_inputs["target_tokens"].CopyFrom(
        pb.Tensor(
            sparse_csr=pb.SparseCsr(
                values=b"\0" * 8, crow_indices=b"\1" * 24, col_indices=b"\7" * 8
            ),
            dtype=pb.DTYPE_INT64,
            shape=[2, 2],
        )
    )

    assert _send(http, whole[:-3]).status_code == 400
    assert _send(http, whole, **{"Content-Encoding": "zstd"}).status_code == 400
    assert _send(http, whole, **{"Content-Encoding": "br"}).status_code == 400
    for seq, message in enumerate((odd, short, wrong_type, sparse), start=1):
        assert _send(http, message.SerializeToString()).status_code == 200
        failed = _result(http, run, seq)
        assert failed.status_code == 200
        assert failed.json()["category"] == "user", failed.json()
    assert _send(http, _forward(run, 5).SerializeToString()).status_code == 200
    assert _result(http, run, 5).headers["content-type"] == "application/x-protobuf"


def test_a_small_request_that_would_fill_the_memory_fails_and_the_run_continues(
    http: httpx2.Client,
) -> None:
    run = _run(http)
    wide, negative = _forward(run, 1), _forward(run, 2)
    for message, columns in ((wide, 2**26), (negative, -(2**26))):
        for name in ("a", "b", "c"):
            tensor = message.data[0].loss_fn_inputs[name]
            tensor.dtype = pb.DTYPE_FLOAT32
            tensor.shape.extend([1, columns])
            tensor.sparse_csr.crow_indices = np.zeros(2, np.int64).tobytes()

    for message in (wide, negative, _forward(run, 3)):
        _send(http, message.SerializeToString())
    answers = [_result(http, run, seq) for seq in (1, 2, 3)]

    assert [len(wide.SerializeToString()) < 1000, len(answers)] == [True, 3]
    for answer in answers[:2]:
        assert "sparse inputs of the request have 201326592 numbers" in answer.json()["error"]
    assert answers[2].headers["content-type"] == "application/x-protobuf"


def test_a_compressed_request_equals_the_uncompressed_one(http: httpx2.Client) -> None:
    import zstandard

    run = _run(http)
    whole = _forward(run, 1).SerializeToString()

    plain = _send(http, whole)
    small = _send(http, zstandard.ZstdCompressor().compress(whole), **{"Content-Encoding": "zstd"})

    assert plain.json() == small.json()


def test_a_body_that_declares_an_excessive_uncompressed_size_is_refused(
    http: httpx2.Client,
) -> None:
    import zstandard

    small = zstandard.ZstdCompressor().compress(b"")
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(2**17)))
    # The two bits of the descriptor that say how wide the size is, and then the size: a terabyte.
    frame[4:9] = bytes([frame[4] | 0xC0]) + (2**40).to_bytes(8, "little")

    answers = [_send(http, bytes(body), **{"Content-Encoding": "zstd"}) for body in (small, frame)]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert "larger than 256 MiB" in answers[1].json()["detail"]


@pytest.mark.parametrize("number", [-1, 2**63, 10**300])
def test_a_clients_numbers_of_runs_and_samplers_are_limited(
    http: httpx2.Client, number: int
) -> None:
    session = _session(http)
    named = {"session_id": session, "base_model": "tiny/llama"}

    run = http.post("create_model", json={**named, "model_seq_id": number})
    sampler = http.post(
        "create_sampling_session", json={**named, "sampling_session_seq_id": number}
    )

    assert (run.status_code, sampler.status_code) == (400, 400)
    assert "model_seq_id" in run.json()["detail"]
    assert "sampling_session_seq_id" in sampler.json()["detail"]


def test_sequence_numbers_out_of_range_are_refused(http: httpx2.Client) -> None:
    run = _run(http)
    for seq in (0, -1, 2**63, 1.5, True, None):
        answer = http.post("save_weights", json={"model_id": run, "seq_id": seq, "path": "x"})
        assert answer.status_code == 400, answer.text


def test_json_sent_to_forward_backward_is_refused_with_the_sdk_to_use(http: httpx2.Client) -> None:
    answer = http.post("forward_backward", json={"model_id": "x"})

    assert answer.status_code == 400
    assert "tinker SDK" in answer.json()["detail"]


def test_errors_contain_no_secret_and_no_path_of_this_machine(
    http: httpx2.Client, engine: Any
) -> None:
    log = Path(engine.data_dir.parent, "engine.log").read_text()

    for text in (log, json.dumps(http.get("training_runs/nobody").json())):
        assert KEY not in text
        assert str(engine.data_dir) not in text
