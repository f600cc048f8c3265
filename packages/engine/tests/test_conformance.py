"""Every public method of the SDK's clients, against the engine over real HTTP.

What makes no sense on one's own hardware is named in `NOT_SERVED` and refused in words; the last
test here fails when the SDK has a method that is neither.
"""

import itertools
import json
import pickle
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tinker
import torch
from dreadnode_engine.__main__ import main
from dreadnode_engine.service.keys import Keyring
from tinker import types

KEY = "tml-master-key-of-the-tests"
ADAM = types.AdamParams(learning_rate=1e-2)
PROMPT = types.ModelInput.from_ints([5, 6, 7])
PARAMS = types.SamplingParams(max_tokens=6, seed=1, stop=[])

both = pytest.mark.parametrize(
    "engine", ["one engine", "two workers"], indirect=True, scope="module"
)
"""Proves a promise of one engine also of several workers behind one address."""

NOT_SERVED = {
    "copy_weights",
    "assign_session_project",
    "get_audit_log",
    "get_billing_usage",
    "search_sessions",
    "whoami",
}
NOT_CALLS = {"holder", "create", "on_queue_state_change"}


@pytest.fixture(scope="module")
def service(engine: Any) -> tinker.ServiceClient:
    return tinker.ServiceClient(
        base_url=engine.url, api_key=KEY, user_metadata={"who": "tests"}, display_name="a name"
    )


@pytest.fixture(scope="module")
def rest(engine: Any) -> tinker.RestClient:
    return tinker.RestClient(base_url=engine.url, api_key=KEY)


@pytest.fixture(scope="module")
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    client = service.create_lora_training_client(
        "tiny/llama", rank=4, seed=1, user_metadata={"purpose": "conformance"}
    ).result()
    client.forward_backward(data(), "cross_entropy")
    client.optim_step(ADAM).result()
    return client


def data(seed: int = 0) -> list[types.Datum]:
    random = np.random.default_rng(seed)
    rows = [random.integers(3, 90, n) for n in (8, 5, 12)]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs={
                "target_tokens": row[1:],
                "weights": np.ones(len(row) - 1, dtype=np.float32),
            },
        )
        for row in rows
    ]


def loss_of(output: types.ForwardBackwardOutput) -> float:
    return output.metrics["loss:sum"]


def test_a_session_lists_its_runs_and_samplers(
    service: tinker.ServiceClient, rest: tinker.RestClient, training: tinker.TrainingClient
) -> None:
    sampler = service.create_sampling_client(base_model="tiny/llama").result()
    session_id = training.model_id.split(":")[0]

    session = rest.get_session(session_id).result()
    sampler_info = rest.get_sampler(session.sampler_ids[0]).result()

    assert training.model_id in session.training_run_ids
    assert session_id in rest.list_sessions().result().sessions
    assert sampler_info.base_model == "tiny/llama"
    assert sampler.get_base_model() == "tiny/llama"
    assert service.get_console_url()
    assert training.get_console_url()
    assert service.get_telemetry() is training.get_telemetry() is rest.get_telemetry() is None


@both
def test_runs_are_found_by_id_and_by_path(
    rest: tinker.RestClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("looked-up").result().path

    by_id = rest.get_training_run(training.model_id).result()
    by_path = rest.get_training_run_by_tinker_path(path).result()

    assert by_id == by_path
    assert by_id.user_metadata == {"purpose": "conformance"}
    assert by_id.training_run_id in {
        run.training_run_id for run in rest.list_training_runs().result().training_runs
    }


@both
def test_lists_are_paged(rest: tinker.RestClient, training: tinker.TrainingClient) -> None:
    for i in range(3):
        training.save_state(f"page-{i}").result()

    whole = rest.list_user_checkpoints().result()
    pages = [
        rest.list_user_checkpoints(limit=2, offset=offset).result()
        for offset in range(0, len(whole.checkpoints), 2)
    ]

    assert [c for page in pages for c in page.checkpoints] == whole.checkpoints
    assert whole.cursor is not None
    assert whole.cursor.total_count == len(whole.checkpoints)


@both
def test_a_checkpoint_is_published_given_a_lifetime_and_deleted(
    rest: tinker.RestClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("managed", ttl_seconds=7200).result().path

    def state() -> types.Checkpoint:
        listed = rest.list_checkpoints(training.model_id).result().checkpoints
        return next(c for c in listed if c.tinker_path == path)

    assert state().expires_at is not None
    rest.publish_checkpoint_from_tinker_path(path).result()
    assert state().public
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not state().public
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert state().expires_at is None
    with pytest.raises(tinker.BadRequestError, match="ttl_seconds"):
        rest.set_checkpoint_ttl_from_tinker_path(path, 10).result()
    rest.delete_checkpoint_from_tinker_path(path).result()
    with pytest.raises(tinker.NotFoundError):
        rest.get_weights_info_by_tinker_path(path).result()
    other = training.save_state("managed-too").result().path
    rest.delete_checkpoint(training.model_id, "weights/managed-too").result()
    with pytest.raises(tinker.NotFoundError):
        rest.get_weights_info_by_tinker_path(other).result()


@pytest.mark.filterwarnings("ignore")
@both
def test_the_storage_used_by_checkpoints_is_reported(
    engine: Any, rest: tinker.RestClient, training: tinker.TrainingClient
) -> None:
    training.save_state("weighed").result()
    saved = rest.list_user_checkpoints().result().checkpoints

    (usage,) = rest.get_current_checkpoint_storage_usage().result().data

    assert usage.checkpoint_count == len(saved)
    assert usage.size_bytes == sum(checkpoint.size_bytes or 0 for checkpoint in saved) > 0
    assert usage.size_gigabytes == pytest.approx(usage.size_bytes / 1e9)
    assert usage.estimated_monthly_cost_usd is None


@both
def test_an_adapter_is_exported_through_a_signed_address(
    rest: tinker.RestClient, training: tinker.TrainingClient
) -> None:
    path = training.save_weights_external("exported").result().path

    answer = rest.get_external_weights_urls(path).result()

    assert set(answer.urls) == {"adapter_config.json", "adapter_model.safetensors"}
    for url in answer.urls.values():
        assert urllib.request.urlopen(url).read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url[:-1] + ("0" if url[-1] != "0" else "1"))


def test_weights_are_loaded_into_an_existing_run(training: tinker.TrainingClient) -> None:
    before = loss_of(training.forward(data(), "cross_entropy").result())
    path = training.save_state("go-back").result().path
    for _ in range(2):
        training.forward_backward(data(), "cross_entropy")
        training.optim_step(ADAM).result()
    assert loss_of(training.forward(data(), "cross_entropy").result()) != before

    training.load_state(path).result()
    assert loss_of(training.forward(data(), "cross_entropy").result()) == before
    training.load_state_with_optimizer(path).result()
    assert loss_of(training.forward(data(), "cross_entropy").result()) == before


@both
def test_a_new_run_starts_from_a_saved_state(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_state("start-here").result().path
    expected = loss_of(training.forward(data(), "cross_entropy").result())

    for make in (
        service.create_training_client_from_state,
        service.create_training_client_from_state_with_optimizer,
    ):
        client = make(path).result()
        assert client.get_info().lora_rank == 4
        assert loss_of(client.forward(data(), "cross_entropy").result()) == expected


def test_a_custom_loss_trains_like_the_built_in_one(
    service: tinker.ServiceClient,
) -> None:
    def nll(sent: list[types.Datum], logprobs: list[torch.Tensor]) -> Any:
        return -torch.stack([p.sum() for p in logprobs]).sum(), {"count": float(len(sent))}

    runs = [
        service.create_lora_training_client("tiny/llama", rank=4, seed=8).result() for _ in range(2)
    ]
    custom = runs[0].forward_backward_custom(data(), nll).result()
    builtin = runs[1].forward_backward(data(), "cross_entropy").result()
    for run in runs:
        run.optim_step(ADAM).result()
    after = [loss_of(run.forward(data(), "cross_entropy").result()) for run in runs]

    assert custom.metrics["count"] == 3.0
    assert loss_of(builtin) > after[1]
    assert after[0] == pytest.approx(after[1], rel=1e-5)


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo", "dro"])
def test_sampled_tokens_are_reinforced(service: tinker.ServiceClient, loss_fn: Any) -> None:
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=8).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    sequence = sampler.sample(PROMPT, 1, PARAMS).result().sequences[0]
    tokens = [5, 6, 7, *sequence.tokens]
    mask = np.array([0.0] * 2 + [1.0] * len(sequence.tokens), dtype=np.float32)
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.array(tokens[1:]),
            "logprobs": np.array([0.0] * 2 + list(sequence.logprobs), dtype=np.float32),
            "advantages": mask,
        },
    )
    first = training.forward_backward([datum], loss_fn).result()
    training.optim_step(ADAM).result()
    second = training.forward([datum], loss_fn).result()

    before, after = (r.loss_fn_outputs[0]["logprobs"].to_numpy() for r in (first, second))
    assert (after * mask).sum() > (before * mask).sum()


def test_base_named_and_unnamed_weights_can_be_sampled(
    service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    path = training.save_weights_for_sampler("to-sample").result().path
    clients = [
        service.create_sampling_client(base_model="tiny/llama").result(),
        service.create_sampling_client(model_path=path).result(),
        training.create_sampling_client(path).result(),
        training.save_weights_and_get_sampling_client().result(),
    ]

    answers = [client.sample(PROMPT, 2, PARAMS).result() for client in clients]
    scores = [client.compute_logprobs(PROMPT).result() for client in clients]

    assert scores[1] == scores[2] == scores[3] != scores[0]
    tokens = [[s.tokens for s in answer.sequences] for answer in answers]
    assert tokens[1] == tokens[2] == tokens[3]
    assert all(len(s.tokens) == 6 for answer in answers for s in answer.sequences)
    assert len({s.sequence_id for answer in answers for s in answer.sequences}) == 8
    assert clients[1].get_tokenizer is not None


@both
def test_sampling_uses_the_newest_weights_saved_under_a_name(
    service: tinker.ServiceClient, rest: tinker.RestClient
) -> None:
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=1).result()
    prompt = types.ModelInput.from_ints([5, 6, 7])

    def scores(path: str) -> list[float | None]:
        sampler = service.create_sampling_client(model_path=path).result()
        return sampler.compute_logprobs(prompt).result()

    named = training.save_weights_for_sampler("again").result().path
    state = training.save_state("again").result().path
    before = [scores(named), scores(state)]
    training.forward_backward(data(), "cross_entropy").result()
    training.optim_step(types.AdamParams(learning_rate=0.1)).result()
    rest.delete_checkpoint_from_tinker_path(named).result()
    training.save_weights_for_sampler("again").result()
    training.save_state("again", overwrite=True).result()
    after = [scores(named), scores(state)]

    fresh = scores(training.save_weights_for_sampler("fresh").result().path)
    assert before[0] == before[1] != fresh
    assert after == [fresh, fresh]


@both
def test_inflight_samplers_follow_their_run_and_snapshots_do_not(
    service: tinker.ServiceClient,
) -> None:
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=3).result()

    def sampler(kind: Any) -> tinker.SamplingClient:
        return training.save_weights_and_get_sampling_client(kind=kind).result()

    inflight, snapshot = sampler("inflight"), sampler("snapshot")
    before = [client.compute_logprobs(PROMPT).result() for client in (inflight, snapshot)]
    training.forward_backward(data(), "cross_entropy")
    training.optim_step(ADAM).result()
    unpublished = inflight.compute_logprobs(PROMPT).result()
    newer = sampler("inflight")
    after = [client.compute_logprobs(PROMPT).result() for client in (inflight, snapshot, newer)]

    assert before[0] == before[1] == unpublished == after[1]
    assert after[0] == after[2] != before[0]


def test_a_sampler_can_be_sent_to_another_process(
    training: tinker.TrainingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The key is not in the handle: it comes from the environment of the other process.
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    sampler = training.save_weights_and_get_sampling_client().result()
    expected = sampler.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens

    by_pickle = pickle.loads(pickle.dumps(sampler))
    by_handle = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())

    for clone in (by_pickle, by_handle):
        assert clone.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens == expected


def test_clients_send_telemetry_and_get_their_config(
    engine: Any, service: tinker.ServiceClient, training: tinker.TrainingClient
) -> None:
    rest = service.create_rest_client()

    models = rest.get_server_capabilities().result().supported_models
    info = training.get_info()

    assert {model.model_name for model in models} >= {"tiny/llama"}
    assert Path(info.model_data.tokenizer_id or "").is_dir()
    assert training.get_tokenizer().decode([4, 5]) == "w0 w1"
    with pytest.warns(FutureWarning):
        assert service.get_server_capabilities().supported_models == models


def test_a_traced_loss_can_be_trained(service: tinker.ServiceClient) -> None:
    def weighed(logprobs: Any, weights: Any) -> Any:
        loss = -(logprobs * weights).sum()
        return loss, {"custom/weighed:sum": loss}

    training = service.create_lora_training_client("tiny/llama", rank=4, seed=8).result()
    handle = service.create_custom_loss(weighed, {"logprobs": 1, "weights": 1}).result()

    custom = training.forward_backward_custom(data(), handle).result()
    builtin = training.forward(data(), "cross_entropy").result()

    assert custom.metrics["custom/weighed:sum"] == pytest.approx(loss_of(builtin), rel=1e-5)


def test_a_large_request_is_split_by_the_sdk_and_summed(service: tinker.ServiceClient) -> None:
    training = service.create_lora_training_client("tiny/llama", rank=2, seed=1).result()
    one = data()[0]

    many = training.forward([one] * 1500, "cross_entropy").result()
    single = training.forward([one], "cross_entropy").result()

    assert len(many.loss_fn_outputs) == 1500
    assert loss_of(many) == pytest.approx(1500 * loss_of(single), rel=1e-4)


@both
def test_the_heartbeats_of_a_finished_session_are_refused(
    engine: Any, rest: tinker.RestClient
) -> None:
    before = set(rest.list_sessions().result().sessions)
    short = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    short.create_sampling_client(base_model="tiny/llama").result()
    short.close("success").result()
    (finished,) = set(rest.list_sessions().result().sessions) - before

    answer = httpx2.post(
        f"{engine.url}/api/v1/session_heartbeat",
        json={"session_id": finished},
        headers={"X-API-Key": KEY},
    )

    assert answer.status_code == 410


def test_a_session_exports_its_trace(engine: Any, tmp_path: Path) -> None:
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=1).result()
    for seed in range(2):
        training.forward_backward(data(seed), "cross_entropy")
        training.optim_step(ADAM).result()
    sampler = training.create_sampling_client(training.save_weights_for_sampler("x").result().path)
    sampler.sample(PROMPT, 3, PARAMS).result()
    session = training.model_id.split(":")[0]
    rest = service.create_rest_client()

    url = rest.export_session_trace(session).result()
    with urllib.request.urlopen(url) as answer:
        trace = json.load(answer)
    file = tmp_path / "written.pftrace"
    arguments = ["--data-dir", str(engine.data_dir), "--session", session, "--to", str(file)]
    assert main(["trace", *arguments]) == 0
    assert main(["trace", *arguments]) == 1

    assert json.loads(file.read_text()) == trace
    events = trace["traceEvents"]
    operations = [e for e in events if e["ph"] == "X"]
    names = ["create_model", *["forward_backward", "optim_step"] * 2, "save_weights_for_sampler"]
    assert [e["name"] for e in operations] == names
    for before, after in itertools.pairwise(operations):
        assert before["ts"] + before["dur"] <= after["ts"]
    tokens = sum(e["args"].get("tokens", 0) for e in operations)
    assert tokens == sum(d.model_input.length for seed in range(2) for d in data(seed))
    (sample,) = [e for e in events if e["ph"] == "b" and e["name"] == "sample"]
    work = {"sequences": 3, "prompt_tokens": 3, "sampled_tokens": 18, "batch_sequences": 3}
    assert work.items() <= sample["args"].items()
    (end,) = [e for e in events if e["ph"] == "e" and e["id"] == sample["id"]]
    waits = {e["id"]: e for e in events if e["ph"] == "b" and e["name"] == "wait"}
    assert len(waits) == len(operations) + 1
    assert waits[sample["id"].replace(" sample", " wait")]["ts"] <= sample["ts"] < end["ts"]
    width = trace["otherData"]["counter_seconds"]
    for name, total in (("training", tokens), ("sampled", 18), ("prompt", 3)):
        counted = [e for e in events if e["ph"] == "C" and e["name"] == f"{name} tokens per second"]
        assert sum(e["args"]["value"] for e in counted) * width == pytest.approx(total)
    # Another key sees no session, and an address opens one session only.
    stranger = Keyring(KEY).run_key("somebody", 2**33)
    export = tinker.RestClient(base_url=engine.url, api_key=stranger).export_session_trace(session)
    with pytest.raises(tinker.NotFoundError):
        export.result()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url.replace(session, "0" * 32))


@pytest.mark.parametrize(
    "call",
    [
        lambda rest, run: rest.copy_weights(
            "tinker://a:train:0/weights/b", destination_project_id="p"
        ).result(),
        lambda rest, run: rest.assign_session_project("x", "y").result(),
        lambda rest, run: rest.get_billing_usage("2026-01-01", "2026-01-02").result(),
        lambda rest, run: rest.search_sessions(
            types.SessionSearchRequest(owner=types.AccessibleSearchOwner())
        ).result(),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_unsupported_calls_are_refused_with_a_clear_message(
    rest: tinker.RestClient, training: tinker.TrainingClient, call: Any
) -> None:
    with pytest.raises(tinker.APIStatusError) as refusal:
        call(rest, training)

    assert refusal.value.status_code == 404
    assert "does not serve" in str(refusal.value)


@pytest.mark.filterwarnings("ignore")
@both
async def test_every_call_has_an_async_variant(engine: Any) -> None:
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    rest = tinker.RestClient(base_url=engine.url, api_key=KEY)
    await service.get_server_capabilities_async()
    training = await service.create_lora_training_client_async("tiny/llama", rank=4, seed=1)
    future = await training.forward_backward_async(data(), "cross_entropy")
    first = loss_of(await future)
    await (await training.optim_step_async(ADAM))
    assert loss_of(await (await training.forward_async(data(), "cross_entropy"))) < first
    custom = await training.forward_backward_custom_async(
        data(), lambda sent, logprobs: (-sum(p.sum() for p in logprobs), {})
    )
    assert loss_of(await custom) < first
    state = (await (await training.save_state_async("awaited"))).path
    weights = (await (await training.save_weights_for_sampler_async("awaited"))).path
    external = (await (await training.save_weights_external_async("awaited"))).path
    await (await training.load_state_async(state))
    await (await training.load_state_with_optimizer_async(state))
    assert (await training.get_info_async()).lora_rank == 4
    await service.create_training_client_from_state_async(state)
    await service.create_training_client_from_state_with_optimizer_async(state)
    samplers = [
        await service.create_sampling_client_async(model_path=weights),
        await training.create_sampling_client_async(weights),
        await training.save_weights_and_get_sampling_client_async(),
    ]
    for sampler in samplers:
        assert await sampler.get_base_model_async() == "tiny/llama"
        scores = await sampler.compute_logprobs_async(PROMPT)
        answer = await sampler.sample_async(PROMPT, 1, PARAMS)
        assert (len(scores), len(answer.sequences[0].tokens)) == (3, 6)
    run = training.model_id
    assert (await rest.get_training_run_async(run)).lora_rank == 4
    assert (await rest.get_training_run_by_tinker_path_async(state)).training_run_id == run
    assert run in {r.training_run_id for r in (await rest.list_training_runs_async()).training_runs}
    assert len((await rest.list_checkpoints_async(run)).checkpoints) == 3
    assert len((await rest.get_external_weights_urls_async(external)).urls) == 2
    await rest.publish_checkpoint_from_tinker_path_async(state)
    await rest.unpublish_checkpoint_from_tinker_path_async(state)
    await rest.set_checkpoint_ttl_from_tinker_path_async(state, 7200)
    await rest.delete_checkpoint_from_tinker_path_async(state)
    await rest.delete_checkpoint_async(run, "sampler_weights/awaited")
    assert len((await rest.list_user_checkpoints_async()).checkpoints) >= 1
    session = run.split(":")[0]
    assert session in (await rest.list_sessions_async()).sessions
    found = await rest.get_session_async(session)
    assert (await rest.get_sampler_async(found.sampler_ids[0])).base_model == "tiny/llama"
    assert (await rest.get_current_checkpoint_storage_usage_async()).data[0].checkpoint_count >= 1
    assert session in await rest.export_session_trace_async(session)


@pytest.mark.parametrize(
    "client",
    [tinker.ServiceClient, tinker.TrainingClient, tinker.SamplingClient, tinker.RestClient],
)
def test_every_public_method_of_the_sdk_is_tested_or_listed_as_unsupported(client: type) -> None:
    source = Path(__file__).read_text()
    public = {name for name in dir(client) if not name.startswith("_")}
    refused = NOT_SERVED | {f"{name}_async" for name in NOT_SERVED}

    missing = {name for name in public - refused - NOT_CALLS if f".{name}" not in source}

    assert missing == set()
