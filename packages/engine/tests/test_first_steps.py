"""What supervised training and sampling need, through the real SDK against a real process."""

import json
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from dreadnode_engine import startup
from dreadnode_engine.errors import Refused
from tinker import types

KEY = "tml-master-key-of-the-tests"
ADAM = types.AdamParams(learning_rate=1e-2)


def datum(seed: int, length: int, prompt: int = 2) -> types.Datum:
    tokens = np.random.default_rng(seed).integers(3, 90, length + 1)
    weights = np.ones(length, dtype=np.float32)
    weights[:prompt] = 0
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
    )


DATA = [datum(0, 5), datum(1, 17), datum(2, 9), datum(3, 12)]


def client(engine: Any, key: str = KEY) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=engine.url, api_key=key)


@pytest.fixture(scope="module")
def service(engine: Any) -> Iterator[tinker.ServiceClient]:
    with client(engine) as service:
        yield service


@pytest.fixture(scope="module")
def rest(engine: Any) -> tinker.RestClient:
    return tinker.RestClient(base_url=engine.url, api_key=KEY)


@pytest.fixture(scope="module")
def trained(service: tinker.ServiceClient) -> tinker.TrainingClient:
    training = service.create_lora_training_client("tiny/llama", rank=8, seed=1).result()
    for _ in range(3):
        training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
    return training


def loss_of(result: types.ForwardBackwardOutput) -> float:
    return result.metrics["loss:sum"]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_the_loss_decreases_on_every_architecture(service: tinker.ServiceClient, kind: str) -> None:
    training = service.create_lora_training_client(f"tiny/{kind}", rank=4, seed=5).result()

    losses = []
    for _ in range(6):
        forward = training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
        losses.append(loss_of(forward.result()))

    assert losses[-1] < losses[0] / 2


def test_the_same_seed_gives_the_same_adapter(service: tinker.ServiceClient) -> None:
    one = service.create_lora_training_client("tiny/llama", rank=4, seed=11).result()
    two = service.create_lora_training_client("tiny/llama", rank=4, seed=11).result()
    other = service.create_lora_training_client("tiny/llama", rank=4, seed=12).result()

    losses = []
    for training in (one, two, other):
        training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
        losses.append(loss_of(training.forward_backward(DATA, "cross_entropy").result()))

    assert losses[0] == losses[1] != losses[2]


def test_runs_of_different_shapes_share_one_base_model(service: tinker.ServiceClient) -> None:
    shapes: list[dict[str, Any]] = [
        {"rank": 2, "train_mlp": False},
        {"rank": 4, "train_attn": False},
        {"rank": 8, "train_unembed": False},
        {"rank": 8, "train_mlp": False, "train_attn": False},
    ]
    for kind in ("llama", "qwen3_moe"):
        runs = [
            service.create_lora_training_client(f"tiny/{kind}", seed=1, **shape).result()
            for shape in shapes
        ]
        first = [run.forward_backward(DATA, "cross_entropy").result() for run in runs]
        for run in runs:
            run.optim_step(ADAM)
        second = [run.forward_backward(DATA, "cross_entropy").result() for run in runs]

        assert len({loss_of(result) for result in first}) == 1
        assert len({loss_of(result) for result in second}) == len(shapes)
        assert all(loss_of(b) < loss_of(a) for a, b in zip(first, second, strict=True))


def test_logprobs_cover_every_token_including_the_prompt(trained: tinker.TrainingClient) -> None:
    result = trained.forward(DATA, "cross_entropy").result()

    for sent, output in zip(DATA, result.loss_fn_outputs, strict=True):
        logprobs, losses = output["logprobs"].to_torch(), output["elementwise_loss"].to_torch()
        assert logprobs.shape == (sent.model_input.length,)
        assert bool((logprobs < 0).all())
        weights = sent.loss_fn_inputs["weights"].to_torch()
        torch.testing.assert_close(losses, -logprobs * weights)


def test_a_forward_pass_leaves_no_gradient(service: tinker.ServiceClient) -> None:
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=3).result()
    before = loss_of(training.forward(DATA, "cross_entropy").result())
    training.optim_step(ADAM)

    after = loss_of(training.forward(DATA, "cross_entropy").result())

    assert after == before


def test_training_resumes_from_a_saved_state(
    service: tinker.ServiceClient, trained: tinker.TrainingClient
) -> None:
    path = trained.save_state("go-on").result().path
    with_optimizer = service.create_training_client_from_state_with_optimizer(path).result()
    without = service.create_training_client_from_state(path).result()

    losses = []
    for training in (trained, with_optimizer, without):
        first = training.forward_backward(DATA, "cross_entropy")
        training.optim_step(ADAM)
        second = training.forward_backward(DATA, "cross_entropy")
        losses.append((loss_of(first.result()), loss_of(second.result())))

    assert losses[0] == losses[1]
    assert losses[2][0] == losses[0][0]
    assert losses[2][1] != losses[0][1]


def test_a_sampler_scores_tokens_like_the_trainer(
    service: tinker.ServiceClient, trained: tinker.TrainingClient
) -> None:
    path = trained.save_weights_for_sampler("scores").result().path
    named = service.create_sampling_client(model_path=path).result()
    unnamed = trained.save_weights_and_get_sampling_client().result()
    prompt = types.ModelInput.from_ints([5, 6, 7])
    sampled = named.sample(prompt, 4, types.SamplingParams(max_tokens=20, seed=1, stop=[])).result()

    for sequence in sampled.sequences:
        tokens = [5, 6, 7, *sequence.tokens]
        scored = unnamed.compute_logprobs(types.ModelInput.from_ints(tokens)).result()
        forward = types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": np.array(tokens[1:])},
        )
        trainer = trained.forward([forward], "cross_entropy").result()

        expected = trainer.loss_fn_outputs[0]["logprobs"].to_numpy()
        assert scored[0] is None
        np.testing.assert_allclose(scored[1:], expected, atol=2e-5)
        np.testing.assert_allclose(sequence.logprobs, expected[2:], atol=2e-5)


def test_plain_peft_loads_the_exported_adapter(
    engine: Any,
    service: tinker.ServiceClient,
    rest: tinker.RestClient,
    models_dir: Path,
    tmp_path: Path,
) -> None:
    for kind in ("llama", "qwen3", "qwen3_moe"):
        training = service.create_lora_training_client(f"tiny/{kind}", rank=4, seed=2).result()
        for _ in range(2):
            training.forward_backward(DATA, "cross_entropy")
            training.optim_step(ADAM)
        saved = training.save_weights_external("out").result().path
        folder = tmp_path / kind
        folder.mkdir()
        for name, url in rest.get_external_weights_urls(saved).result().urls.items():
            (folder / name).write_bytes(urllib.request.urlopen(url).read())
        expected = training.forward(DATA, "cross_entropy").result()

        assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 32
        for sent, output in zip(DATA, expected.loss_fn_outputs, strict=True):
            scores = _peft_logprobs(models_dir / kind, folder, sent)
            torch.testing.assert_close(scores, output["logprobs"].to_torch(), atol=2e-5, rtol=1e-4)


def _peft_logprobs(base: Path, adapter: Path, sent: types.Datum) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter)
        logits = model(input_ids=torch.tensor([sent.model_input.to_ints()])).logits[0]
    targets = sent.loss_fn_inputs["target_tokens"].to_torch()
    return torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]


def test_a_tokenizer_comes_from_the_models_own_folder(trained: tinker.TrainingClient) -> None:
    tokenizer = trained.get_tokenizer()

    assert tokenizer.encode("w0 w1") == [4, 5]


def test_the_capabilities_name_every_model_with_its_limits(engine: Any) -> None:
    request = urllib.request.Request(
        f"{engine.url}/api/v1/get_server_capabilities", headers={"X-API-Key": KEY}
    )
    models = json.loads(urllib.request.urlopen(request).read())["supported_models"]

    assert [model["model_name"] for model in models] == [
        "tiny/llama",
        "tiny/qwen3",
        "tiny/qwen3_moe",
    ]
    for model in models:
        assert model["max_context_length"] == 128
        assert model["trainable"] is model["sampleable"] is True
        assert model["stand_in"] is False
        assert model["max_lora_rank"] == 128
        assert Path(model["tokenizer_id"], "tokenizer.json").is_file()


def test_a_run_and_its_checkpoints_are_listed(
    rest: tinker.RestClient, trained: tinker.TrainingClient
) -> None:
    path = trained.save_state("listed").result().path
    sampler = trained.save_weights_for_sampler("listed").result().path

    run = rest.get_training_run(trained.model_id).result()
    listed = rest.list_checkpoints(trained.model_id).result().checkpoints
    info = rest.get_weights_info_by_tinker_path(path).result()

    assert (run.base_model, run.lora_rank, run.is_lora) == ("tiny/llama", 8, True)
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.tinker_path == path
    assert {path, sampler} <= {checkpoint.tinker_path for checkpoint in listed}
    assert (info.base_model, info.lora_rank, info.train_unembed) == ("tiny/llama", 8, True)


def test_an_engine_stops_cleanly_on_request(start_engine: Callable[..., Any]) -> None:
    engine = start_engine()

    assert engine.stop() == 0


def test_an_engine_stops_when_its_parent_process_ends(start_engine: Callable[..., Any]) -> None:
    engine = start_engine()
    engine.process.stdin.close()

    assert engine.process.wait(30) == 0


async def test_two_engines_never_share_a_data_directory(
    start_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    monkeypatch.setattr(startup, "LOCK_SECONDS", 0.0)

    with pytest.raises(Refused, match="Another engine uses"):
        await startup.lock_data_dir(engine.data_dir)
    engine.kill()
    (await startup.lock_data_dir(engine.data_dir)).close()
