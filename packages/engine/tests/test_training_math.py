"""Losses, gradients and optimizer steps against independent computations in plain PyTorch."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.training import Limits, check, micro_batches
from dreadnode_engine.compute.training_state import TrainingState, read_state, write_tensors
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward, Logprobs
from safetensors.torch import load_file
from tinker.types import AdamParams
from torch import Tensor

LENGTHS = (5, 17, 9, 1, 12)
SHAPE = LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True)
LIMITS = Limits(vocabulary=96, context=128)


@pytest.fixture(scope="module")
def bases(models_dir: Path) -> dict[str, LoadedBase]:
    return {
        kind: LoadedBase(inspect_model(kind, models_dir / kind), Device())
        for kind in ("llama", "qwen3", "qwen3_moe")
    }


def new_state(base: LoadedBase, shape: LoraShape = SHAPE) -> TrainingState:
    """Make a run whose adapter already does something."""
    wrapper, _ = base.wrapper_for(shape)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(size, generator=generator) * 0.1 for name, size in wrapper.shapes.items()
    }
    return TrainingState(base, shape, tensors)


def policy_data(seed: int = 0) -> list[Datum]:
    random = np.random.default_rng(seed)
    data = []
    for length in LENGTHS:
        tokens = random.integers(3, 96, length + 1)
        advantages = random.normal(size=length)
        advantages[: length // 3] = 0
        inputs = {
            "target_tokens": tokens[1:],
            "logprobs": random.normal(-4.5, 1.0, length).astype(np.float32),
            "advantages": advantages.astype(np.float32),
        }
        data.append(Datum(tokens[:-1], inputs))
    return data


def supervised_data(seed: int = 0) -> list[Datum]:
    data = []
    for datum in policy_data(seed):
        weights = datum.inputs["advantages"]
        data.append(
            Datum(
                datum.tokens, {"target_tokens": datum.inputs["target_tokens"], "weights": weights}
            )
        )
    return data


def compute(
    state: TrainingState,
    loss_fn: str,
    data: list[Datum],
    config: dict[str, Any] | None = None,
    *,
    forward_only: bool = False,
    budget: int = 40,
) -> Logprobs:
    """Compute a request as the engine does, in several micro-batches."""
    job = check(ForwardBackward(loss_fn, config or {}, forward_only, data), LIMITS)
    work = state.forward_backward(job, budget)
    while True:
        try:
            next(work)
        except StopIteration as finished:
            output: Logprobs = finished.value
            return output


def plain_peft(models_dir: Path, kind: str, state: TrainingState, folder: Path) -> Any:
    """Load the same adapter with PEFT alone, ready to be trained."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    state.wrapper.save(state.parameters, folder, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(models_dir / kind, dtype=torch.float32)
        return PeftModel.from_pretrained(model, folder, is_trainable=True)


def plain_logprobs(model: Any, datum: Datum) -> Tensor:
    logits = model(input_ids=torch.from_numpy(datum.tokens)[None]).logits[0]
    targets = torch.from_numpy(datum.inputs["target_tokens"])
    return torch.log_softmax(logits, -1)[torch.arange(len(targets)), targets]


# The formulas of Tinker's documentation, written out once more and on their own.
def documented_cross_entropy(p: Tensor, d: Datum) -> Tensor:
    return -(p * torch.from_numpy(d.inputs["weights"])).sum()


def _policy(p: Tensor, d: Datum) -> tuple[Tensor, Tensor]:
    q, advantages = (torch.from_numpy(d.inputs[n]) for n in ("logprobs", "advantages"))
    return (p - q).exp(), advantages


def documented_importance_sampling(p: Tensor, d: Datum) -> Tensor:
    ratio, advantages = _policy(p, d)
    return -(ratio * advantages).sum()


def documented_ppo(p: Tensor, d: Datum, low: float = 0.8, high: float = 1.2) -> Tensor:
    ratio, advantages = _policy(p, d)
    return -torch.min(ratio * advantages, torch.clamp(ratio, low, high) * advantages).sum()


def documented_cispo(p: Tensor, d: Datum, low: float = 0.8, high: float = 1.2) -> Tensor:
    ratio, advantages = _policy(p, d)
    return -(torch.clamp(ratio, low, high).detach() * advantages * p).sum()


def documented_dro(p: Tensor, d: Datum, beta: float = 0.05) -> Tensor:
    q, advantages = (torch.from_numpy(d.inputs[n]) for n in ("logprobs", "advantages"))
    return -(p * advantages - 0.5 * beta * (p - q) ** 2).sum()


CASES: list[tuple[str, dict[str, float], Callable[[Tensor, Datum], Tensor]]] = [
    ("cross_entropy", {}, documented_cross_entropy),
    ("importance_sampling", {}, documented_importance_sampling),
    ("ppo", {}, documented_ppo),
    (
        "ppo",
        {"clip_low_threshold": 0.5, "clip_high_threshold": 3.0},
        lambda p, d: documented_ppo(p, d, 0.5, 3.0),
    ),
    ("cispo", {}, documented_cispo),
    ("cispo", {"clip_high_threshold": 2.0}, lambda p, d: documented_cispo(p, d, 0.8, 2.0)),
    ("dro", {}, documented_dro),
    ("dro", {"beta": 0.7}, lambda p, d: documented_dro(p, d, 0.7)),
]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize(("loss_fn", "config", "formula"), CASES)
def test_each_loss_and_its_gradient_match_the_documented_formula(
    bases: dict[str, LoadedBase],
    models_dir: Path,
    tmp_path: Path,
    kind: str,
    loss_fn: str,
    config: dict[str, float],
    formula: Callable[[Tensor, Datum], Tensor],
) -> None:
    state = new_state(bases[kind])
    data = supervised_data() if loss_fn == "cross_entropy" else policy_data()
    model = plain_peft(models_dir, kind, state, tmp_path)

    output = compute(state, loss_fn, data, config)
    expected = torch.zeros(())
    for datum, logprobs in zip(data, output.logprobs, strict=True):
        p = plain_logprobs(model, datum)
        np.testing.assert_allclose(logprobs, p.detach().numpy(), atol=2e-5)
        expected = expected + formula(p, datum)
    expected.backward()  # type: ignore[no-untyped-call]

    assert output.metrics["loss:sum"] == pytest.approx(float(expected.detach()), rel=1e-4)
    theirs = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    assert theirs.keys() == state.parameters.keys()
    for name, parameter in state.parameters.items():
        assert parameter.grad is not None
        scale = max(1.0, float(theirs[name].grad.abs().max()))
        torch.testing.assert_close(
            parameter.grad, theirs[name].grad, atol=1e-4 * scale, rtol=1e-3, msg=name
        )


def test_several_targets_per_token_are_weighted_together(
    bases: dict[str, LoadedBase], models_dir: Path, tmp_path: Path
) -> None:
    state = new_state(bases["llama"])
    random = np.random.default_rng(4)
    data = [
        Datum(
            random.integers(3, 96, length),
            {
                "target_tokens": random.integers(3, 96, (length, k)),
                "weights": random.random((length, k)).astype(np.float32),
            },
        )
        for length, k in ((6, 3), (4, 2), (5, 3))
    ]
    model = plain_peft(models_dir, "llama", state, tmp_path)

    output = compute(state, "cross_entropy", data, budget=1000)

    for datum, logprobs, losses in zip(data, output.logprobs, output.losses, strict=True):
        logits = model(input_ids=torch.from_numpy(datum.tokens)[None]).logits[0]
        targets = torch.from_numpy(datum.inputs["target_tokens"])
        expected = torch.log_softmax(logits, -1).gather(-1, targets).detach().numpy()
        np.testing.assert_allclose(logprobs, expected, atol=2e-5)
        np.testing.assert_allclose(losses, -expected * datum.inputs["weights"], atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_gradient_checkpointing_computes_layers_twice_with_the_same_gradients(
    bases: dict[str, LoadedBase], models_dir: Path, kind: str
) -> None:
    saving = LoadedBase(inspect_model(kind, models_dir / kind), Device(gradient_checkpointing=True))
    states = [new_state(bases[kind]), new_state(saving)]
    passes = [0, 0]
    for i, state in enumerate(states):
        attention = state.network.causal_lm.get_decoder().layers[0].self_attn  # type: ignore[operator]
        attention.register_forward_hook(lambda *_, i=i: passes.__setitem__(i, passes[i] + 1))

    outputs = [compute(state, "cross_entropy", supervised_data(), budget=1000) for state in states]

    assert passes == [1, 2]
    assert outputs[0].metrics == outputs[1].metrics
    for name, parameter in states[0].parameters.items():
        torch.testing.assert_close(parameter.grad, states[1].parameters[name].grad, msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("part", ["train_mlp", "train_attn", "train_unembed"])
def test_only_the_chosen_modules_are_trained(
    bases: dict[str, LoadedBase], kind: str, part: str
) -> None:
    flags = {name: name == part for name in ("train_mlp", "train_attn", "train_unembed")}
    state = new_state(bases[kind], LoraShape(4, **flags))
    before = {name: p.detach().clone() for name, p in state.parameters.items()}

    compute(state, "cross_entropy", supervised_data())
    state.optim_step(AdamParams(learning_rate=1e-2))

    belongs = {"train_mlp": ".mlp.", "train_attn": ".self_attn.", "train_unembed": ".lm_head."}
    assert state.parameters
    for name, parameter in state.parameters.items():
        assert belongs[part] in name
        assert not torch.equal(before[name], parameter.detach()), name


def test_gradients_accumulate_until_a_step(bases: dict[str, LoadedBase]) -> None:
    apart, together = new_state(bases["llama"]), new_state(bases["llama"])
    first, second = supervised_data(1), supervised_data(2)

    compute(apart, "cross_entropy", first)
    compute(apart, "cross_entropy", second)
    compute(together, "cross_entropy", first + second)

    for name, parameter in apart.parameters.items():
        torch.testing.assert_close(
            parameter.grad, together.parameters[name].grad, atol=1e-4, rtol=1e-4
        )


def test_splitting_a_request_does_not_change_its_result(
    bases: dict[str, LoadedBase],
) -> None:
    whole, split = new_state(bases["llama"]), new_state(bases["llama"])

    one = compute(whole, "cross_entropy", supervised_data(), budget=10_000)
    many = compute(split, "cross_entropy", supervised_data(), budget=1)

    assert one.metrics["loss:sum"] == pytest.approx(many.metrics["loss:sum"], rel=1e-5)
    for a, b in zip(one.logprobs, many.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_micro_batches_contain_every_sequence_once_within_the_budget() -> None:
    sizes = [(7, 1), (1, 1), (30, 1), (12, 1), (12, 4), (3, 1), (2, 4), (1, 4)]

    batches = list(micro_batches(sizes, 24))

    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or sum(sizes[i][0] for i in batch) <= 24
        assert len({sizes[i][1] for i in batch}) == 1


def adamw_by_hand(
    weights: list[Tensor], gradients: list[list[Tensor]], params: AdamParams
) -> list[Tensor]:
    """AdamW as in Loshchilov and Hutter, with the norm clipped first; one list per step."""
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    for t, step in enumerate(gradients, start=1):
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in step))
        scale = min(1.0, params.grad_clip_norm / norm) if params.grad_clip_norm else 1.0
        for i, raw in enumerate(step):
            g = raw * scale
            first[i] = params.beta1 * first[i] + (1 - params.beta1) * g
            second[i] = params.beta2 * second[i] + (1 - params.beta2) * g * g
            m, v = first[i] / (1 - params.beta1**t), second[i] / (1 - params.beta2**t)
            decayed = weights[i] * (1 - params.learning_rate * params.weight_decay)
            weights[i] = decayed - params.learning_rate * m / (v.sqrt() + params.eps)
    return weights


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_an_optimizer_step_is_adamw_with_decay_and_clipping(
    bases: dict[str, LoadedBase], clip: float
) -> None:
    state = new_state(bases["llama"])
    params = AdamParams(
        learning_rate=3e-3, beta1=0.8, beta2=0.97, eps=1e-6, weight_decay=0.1, grad_clip_norm=clip
    )
    before = [p.detach().clone() for p in state.parameters.values()]
    gradients, norms = [], []
    for seed in range(3):
        compute(state, "cross_entropy", supervised_data(seed))
        gradients.append([p.grad.clone() for p in state.parameters.values()])  # type: ignore[union-attr]
        norms.append(state.optim_step(params)["grad_norm"])

    expected = adamw_by_hand(before, gradients, params)

    for parameter, wanted in zip(state.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted, atol=1e-6, rtol=1e-4)
    flat = torch.cat([g.flatten() for g in gradients[0]])
    assert norms[0] == pytest.approx(float(flat.norm()), rel=1e-4)


def test_a_run_is_restored_from_disk_bit_for_bit(
    bases: dict[str, LoadedBase], tmp_path: Path
) -> None:
    state = new_state(bases["llama"])
    compute(state, "cross_entropy", supervised_data(1))
    state.optim_step(AdamParams(learning_rate=1e-2))
    compute(state, "cross_entropy", supervised_data(2))
    write_tensors(state.tensors(), tmp_path / "s.safetensors")

    again = read_state(bases["llama"], SHAPE, tmp_path / "s.safetensors")
    for run in (state, again):
        compute(run, "cross_entropy", supervised_data(3))
        run.optim_step(AdamParams(learning_rate=1e-2))

    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, again.parameters[name])


def begin_new(base: LoadedBase, state: TrainingState, folder: Path) -> TrainingState:
    """Return a run that has computed the same from its start."""
    again = new_state(base)
    for seed in range(2):
        compute(again, "cross_entropy", supervised_data(seed))
        again.optim_step(STEP)
    return again


def begin_from_checkpoint(base: LoadedBase, state: TrainingState, folder: Path) -> TrainingState:
    """Return a run that was loaded from a checkpoint of STATE with its optimizer."""
    state.wrapper.save(state.parameters, folder, "x")
    write_tensors(state.optimizer_tensors(), folder / "optimizer.safetensors")
    wrapper, _ = base.wrapper_for(SHAPE)
    again = TrainingState(base, SHAPE, wrapper.load(folder))
    again.restore(load_file(folder / "optimizer.safetensors"))
    return again


def begin_from_snapshot(base: LoadedBase, state: TrainingState, folder: Path) -> TrainingState:
    """Return a run that was rebuilt from a snapshot, as after a kill."""
    write_tensors(state.tensors(), folder / "s.safetensors")
    return read_state(base, SHAPE, folder / "s.safetensors")


def begin_from_unordered_tensors(
    base: LoadedBase, state: TrainingState, folder: Path
) -> TrainingState:
    """Return a run whose tensors came in another order."""
    tensors = {name: p.detach().clone() for name, p in reversed(state.parameters.items())}
    again = TrainingState(base, SHAPE, tensors)
    again.restore(dict(reversed(state.optimizer_tensors().items())))
    return again


STEP = AdamParams(learning_rate=1e-2, grad_clip_norm=0.3)
SETTINGS = [
    {},
    {"grad_clip_norm": 0.3},
    {"weight_decay": 0.1},
    {"grad_clip_norm": 1e-3, "weight_decay": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-5},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    "begin",
    [begin_new, begin_from_checkpoint, begin_from_snapshot, begin_from_unordered_tensors],
)
def test_a_run_has_the_same_bits_however_it_started(
    bases: dict[str, LoadedBase],
    tmp_path: Path,
    begin: Callable[[LoadedBase, TrainingState, Path], TrainingState],
    settings: dict[str, float],
) -> None:
    state = begin_new(bases["llama"], new_state(bases["llama"]), tmp_path)
    again = begin(bases["llama"], state, tmp_path)

    norms: list[list[float]] = [[], []]
    for seed in range(2, 6):
        for run, kept in zip((state, again), norms, strict=True):
            compute(run, "cross_entropy", supervised_data(seed))
            kept.append(run.optim_step(AdamParams(learning_rate=1e-2, **settings))["grad_norm"])

    assert norms[0] == norms[1]
    assert list(again.parameters) == list(state.parameters)
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, again.parameters[name])


def test_packed_sequences_do_not_see_each_other(bases: dict[str, LoadedBase]) -> None:
    data = supervised_data()
    together, apart = new_state(bases["llama"]), new_state(bases["llama"])

    packed = compute(together, "cross_entropy", data, budget=1000)
    alone = [compute(apart, "cross_entropy", [datum]) for datum in data]

    for logprobs, one in zip(packed.logprobs, alone, strict=True):
        np.testing.assert_allclose(logprobs, one.logprobs[0], atol=1e-5)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("advantages", {"advantages": np.full(17, np.nan, np.float32)}, "not finite"),
    ("logprobs", {"logprobs": np.full(17, np.inf, np.float32)}, "not finite"),
    ("length", {"advantages": np.ones(16, np.float32)}, "has shape 16"),
    ("targets", {"target_tokens": np.full(17, 96)}, "token id 96"),
    ("targets", {"target_tokens": np.full(17, -1)}, "token id -1"),
    ("targets", {"target_tokens": np.ones(17, np.float32)}, "must be 17 integers"),
    ("targets", {"target_tokens": np.ones((17, 2), np.int64)}, "Only cross_entropy"),
    ("weights", {"weights": np.full(17, 0.5, np.float32)}, "multiply them into `advantages`"),
    ("unknown", {"mask": np.ones(17, np.float32)}, "does not read the input `mask`"),
]


@pytest.mark.parametrize(("_", "change", "sentence"), WRONG)
def test_an_invalid_datum_is_refused_before_compute(
    _: str, change: dict[str, Any], sentence: str
) -> None:
    data = policy_data()
    data[1] = Datum(data[1].tokens, {**data[1].inputs, **change})

    with pytest.raises(OperationFailed, match=sentence):
        check(ForwardBackward("ppo", {}, False, data), LIMITS)


@pytest.mark.parametrize(
    ("loss_fn", "config", "sentence"),
    [
        ("gspo", {}, "gspo"),
        ("stable_reinforce", {}, "stable_reinforce"),
        ("custom", {}, "forward_backward_custom"),
        ("nonsense", {}, "is not a loss"),
        ("ppo", {"clip": 0.1}, "has no setting `clip`"),
        ("ppo", {"clip_low_threshold": "low"}, "must be a number"),
        ("ppo", {"clip_low_threshold": math.nan}, "must be a number"),
        ("ppo", {"clip_low_threshold": 2.0}, "clip_low_threshold"),
        ("cross_entropy", {"beta": 1.0}, "takes no settings"),
    ],
)
def test_an_unknown_loss_is_refused_with_the_known_ones(
    loss_fn: str, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(OperationFailed, match=sentence):
        check(ForwardBackward(loss_fn, config, False, policy_data()), LIMITS)


def test_weights_beside_advantages_are_accepted_where_they_are_redundant() -> None:
    data = policy_data()
    ones = (data[1].inputs["advantages"] != 0).astype(np.float32)
    data[1] = Datum(data[1].tokens, {**data[1].inputs, "weights": ones})

    check(ForwardBackward("ppo", {}, False, data), LIMITS)
    with pytest.raises(OperationFailed, match="multiply"):
        check(ForwardBackward("dro", {}, False, data), LIMITS)


def test_a_request_that_overflows_changes_nothing(bases: dict[str, LoadedBase]) -> None:
    state, untouched = new_state(bases["llama"]), new_state(bases["llama"])
    for run in (state, untouched):
        compute(run, "cross_entropy", supervised_data())
    data = policy_data()
    data[2] = Datum(data[2].tokens, {**data[2].inputs, "logprobs": np.full(9, -1e4, np.float32)})

    with pytest.raises(OperationFailed, match="not finite"):
        compute(state, "importance_sampling", data)

    for name, parameter in state.parameters.items():
        assert torch.equal(parameter.grad, untouched.parameters[name].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": math.nan},
        {"learning_rate": -1.0},
        {"learning_rate": 1e9},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"eps": 0.0},
        {"weight_decay": math.inf},
        {"learning_rate": 1.0, "weight_decay": 2.0},
        {"grad_clip_norm": -1.0},
    ],
)
def test_a_step_that_would_destroy_the_run_is_refused(
    bases: dict[str, LoadedBase], wrong: dict[str, float]
) -> None:
    state = new_state(bases["llama"])
    compute(state, "cross_entropy", supervised_data())
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}

    with pytest.raises(OperationFailed):
        state.optim_step(AdamParams(**wrong))

    after = state.tensors()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
