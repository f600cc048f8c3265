"""bfloat16 projections on a CPU: close to float32, the same bits after a kill, never mixed up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute import memory, mixed_precision
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.sampling import Plan, StopCondition
from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.compute.training_state import TrainingState
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward, Logprobs
from tinker import types
from tinker.proto import response_conv
from tinker.types import AdamParams

KEY = "tml-master-key-of-the-tests"
MIXED = Device("cpu", torch.bfloat16)
SHAPE = LoraShape(4, train_mlp=True, train_attn=True, train_unembed=False)


def new_state(base: LoadedBase) -> TrainingState:
    return TrainingState(base, SHAPE, base.wrapper_for(SHAPE)[0].initial(3))


def compute(state: TrainingState, tokens: np.ndarray[Any, Any]) -> Logprobs:
    """Compute the loss and the gradient of TOKENS."""
    data = [Datum(tokens[:-1], {"target_tokens": tokens[1:]})]
    job = check(ForwardBackward("cross_entropy", {}, False, data), Limits(96, 128))
    work = state.forward_backward(job, 512)
    while True:
        try:
            next(work)
        except StopIteration as finished:
            result: Logprobs = finished.value
            return result


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_only_projections_are_bfloat16_and_losses_stay_within_a_percent(
    models_dir: Path, kind: str
) -> None:
    served = inspect_model(kind, models_dir / kind)
    halved, exact = LoadedBase(served, MIXED), LoadedBase(served, Device())
    tokens = np.random.default_rng(0).integers(3, 90, 60)
    states = [new_state(base) for base in (halved, exact)]

    losses: list[list[float]] = [[], []]
    for _ in range(3):
        for state, kept in zip(states, losses, strict=True):
            kept.append(compute(state, tokens).metrics["loss:sum"])
            state.optim_step(AdamParams(learning_rate=1e-3))

    weights = dict(halved.plain.causal_lm.named_parameters())
    names = {name for name, weight in weights.items() if weight.dtype == torch.bfloat16}
    assert names == {name for name in weights if "_proj." in name and ".experts." not in name}
    assert memory.base_bytes(served, MIXED) == sum(w.nbytes for w in set(weights.values()))
    assert {p.dtype for p in states[0].parameters.values()} == {torch.float32}
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)
    assert losses[0] != losses[1]


def test_the_sampler_and_the_trainer_agree(models_dir: Path) -> None:
    base = LoadedBase(inspect_model("llama", models_dir / "llama"), MIXED)
    results: list[bytes] = []
    plan = Plan(np.array([5, 6, 7, 8]), 4, 60, 1, 1.0, 0, 1.0, (), 0, 0, 0, None, 0)
    batch = SamplingBatch(base, base.sampling_network, rows=64, tokens=65536)
    batch.add(BatchRequest(plan, StopCondition(plan, base), results.append, pytest.fail))
    while batch.busy:
        batch.advance()

    for sequence in response_conv.deserialize_sample_response(results[0]).sequences:
        whole = np.concatenate([plan.prompt, sequence.tokens])
        trained = compute(new_state(base), whole).logprobs[0][3:]
        ratio = trained - np.array(sequence.logprobs)
        # The estimator k3 of the KL divergence (Schulman 2020).
        assert np.mean(np.exp(ratio) - 1 - ratio) < 1e-3


def test_a_token_has_the_same_logits_alone_and_among_others(models_dir: Path) -> None:
    base = LoadedBase(inspect_model("llama", models_dir / "llama"), MIXED)
    network = base.sampling_network

    with torch.no_grad():
        hidden = network.hidden(torch.arange(3, 35)[None])[0]
        together = network.logits(hidden)
        alone = torch.cat([network.logits(row) for row in hidden.split(1)])

    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert together.dtype == torch.float32


def batch(step: int) -> list[types.Datum]:
    tokens = np.random.default_rng(step).integers(3, 90, 30)
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
            loss_fn_inputs={"target_tokens": tokens[1:]},
        )
    ]


def test_a_run_resumes_with_the_same_bits_and_only_in_its_own_data_type(
    start_engine: Callable[..., Any],
) -> None:
    engine = start_engine("--dtype", "bfloat16")
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    runs = [service.create_lora_training_client("tiny/llama", rank=4, seed=9) for _ in range(2)]
    unbroken, killed = (run.result() for run in runs)

    losses: list[list[float]] = []
    for run in (unbroken, killed):
        losses.append([])
        for step in range(4):
            if run is killed and step == 2:
                engine.kill()
                engine.start()
            forward = run.forward_backward(batch(step), "cross_entropy")
            run.optim_step(AdamParams(learning_rate=1e-2))
            losses[-1].append(forward.result().metrics["loss:sum"])
    path = killed.save_state("kept").result().path
    assert engine.stop() == 0
    engine._arguments = ("--dtype", "float32")
    engine.start()

    assert losses[0] == losses[1]
    with pytest.raises(tinker.BadRequestError, match="start the engine with `--dtype bfloat16` to"):
        killed.forward_backward(batch(5), "cross_entropy").result()
    again = service.create_training_client_from_state_with_optimizer(path).result()
    loss = again.forward_backward(batch(0), "cross_entropy").result().metrics["loss:sum"]
    assert 0 < loss < losses[0][0]


def test_auto_measures_once_and_keeps_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([3.0, 0.5])
    monkeypatch.setattr(mixed_precision, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(mixed_precision, "_speed_of_bfloat16", lambda: next(speeds))

    chosen = [mixed_precision.choose_dtype(tmp_path) for _ in range(2)]
    (tmp_path / "dtype.json").write_text("of another machine")
    chosen.append(mixed_precision.choose_dtype(tmp_path))

    assert chosen == ["bfloat16", "bfloat16", "float32"]
    monkeypatch.setattr(mixed_precision, "_has_bfloat16", lambda: False)
    (tmp_path / "dtype.json").unlink()
    assert mixed_precision.choose_dtype(tmp_path) == "float32"
