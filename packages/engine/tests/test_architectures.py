"""Models with other layers than full attention, compared with transformers and a PEFT loop."""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
import torch
import transformers
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute import indexer, memory, relative_attention
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoders import empty_decoder
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.layer_slots import KeyValueSlots
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.mixed_precision import halve_projections
from dreadnode_engine.compute.probe import check_architecture
from dreadnode_engine.compute.sampling import Plan, StopCondition
from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.compute.training_state import TrainingState, read_state, write_tensors
from dreadnode_engine.errors import Refused
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward, Logprobs
from safetensors.torch import load_file, save_file
from tinker import types
from tinker.proto import response_conv
from tinker.types import AdamParams
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

CONTEXT = 320
MASTER = "tml-master-key-of-the-tests"
SHAPES = [
    LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True),
    LoraShape(8, train_mlp=False, train_attn=True, train_unembed=False),
]
# The text tower of a Kimi K2.5 is a DeepSeek V3, that of a Nemotron Omni a Nemotron-H.
KINDS = [
    *("gpt_oss", "qwen3_5", "qwen3_5_moe", "kimi_k25", "glm_moe_dsa", "nemotron_h_omni"),
    *("inkling", "inkling2", "glm5_next", "deepseek_v4"),
]
STEP = AdamParams(learning_rate=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, make_tiny: Callable[[str, int], Path]) -> LoadedBase:
    """A loaded tiny model of each architecture."""
    return LoadedBase(inspect_model(request.param, make_tiny(request.param, CONTEXT)), Device())


def test_the_weights_of_the_decoder_are_loaded_and_counted_alone(base: LoadedBase) -> None:
    kept = base.plain.causal_lm.state_dict()

    assert memory.parameters(base.served.path) == sum(tensor.numel() for tensor in kept.values())
    assert base.served.vocabulary == 96
    halved = empty_decoder(base.served.path)
    halve_projections(halved)
    stored = sum(tensor.nbytes for tensor in halved.state_dict().values())
    assert memory.base_bytes(base.served, Device("cpu", torch.bfloat16)) == stored


def tensors_of(base: LoadedBase, shape: LoraShape, seed: int) -> dict[str, torch.Tensor]:
    """Return an adapter that changes a lot."""
    wrapper, _ = base.wrapper_for(shape)
    generator = torch.Generator().manual_seed(seed)
    sizes = wrapper.shapes.items()
    return {name: torch.randn(size, generator=generator) * 0.1 for name, size in sizes}


def adapter(base: LoadedBase, folder: Path, seed: int) -> Path:
    wrapper, _ = base.wrapper_for(SHAPES[seed])
    folder.mkdir()
    wrapper.export(tensors_of(base, SHAPES[seed], seed), folder, "x")
    return folder


def plain(base: LoadedBase, folder: Path | None, *, train: bool = False) -> Any:
    """Load the model, and the adapter in FOLDER, with transformers and PEFT alone."""
    from peft import PeftModel

    own: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    path = base.served.path
    if base.served.id in ("kimi_k25", "nemotron_h_omni"):
        # transformers finds no class for the text tower of these models by itself.
        own["config"] = AutoConfig.from_pretrained(path).text_config
        own["key_mapping"] = {r"^language_model\.": ""}
    # A class for the text tower of GLM 5.3 Flash alone is the engine's own.
    replaced = {"glm5_next": "Glm5NextForConditionalGeneration"}
    build = getattr(transformers, replaced.get(base.served.id, base.served.architecture))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "inkling" in base.served.id:
            # transformers loads the text tower of these models only with the other towers.
            whole = AutoModelForImageTextToText.from_pretrained(path, **own)
            model = build._from_config(whole.config.text_config, **own)
            model.model, model.lm_head = whole.model.language_model, whole.lm_head
            model.eval()
        else:
            model = build.from_pretrained(path, **own).eval()
        if folder is not None:
            return PeftModel.from_pretrained(model, folder, is_trainable=train)
    return model


def data(seed: int) -> list[Datum]:
    random = np.random.default_rng(seed)
    found = []
    for length in (5, 37, 9, 1, 20):
        tokens = random.integers(3, 96, length + 1)
        weights = random.random(length).astype(np.float32)
        found.append(Datum(tokens[:-1], {"target_tokens": tokens[1:], "weights": weights}))
    return found


def compute(state: TrainingState, examples: list[Datum], budget: int = 60) -> Logprobs:
    request = ForwardBackward("cross_entropy", {}, False, examples)
    work = state.forward_backward(check(request, Limits(96, CONTEXT)), budget)
    while True:
        try:
            next(work)
        except StopIteration as finished:
            output: Logprobs = finished.value
            return output


def plain_step(model: Any, examples: list[Datum]) -> tuple[list[np.ndarray], float]:
    """Return log-probabilities and the loss of a plain loop over EXAMPLES, one at a time."""
    logprobs, total = [], torch.zeros(())
    for datum in examples:
        logits = model(input_ids=torch.from_numpy(datum.tokens)[None], use_cache=False).logits[0]
        targets = torch.from_numpy(datum.inputs["target_tokens"])
        p = torch.log_softmax(logits, -1)[torch.arange(len(targets)), targets]
        total = total - (p * torch.from_numpy(datum.inputs["weights"])).sum()
        logprobs.append(p.detach().numpy())
    total.backward()  # type: ignore[no-untyped-call]
    return logprobs, float(total.detach())


def test_training_matches_a_plain_peft_loop(base: LoadedBase, tmp_path: Path) -> None:
    wrapper, _ = base.wrapper_for(SHAPES[0])
    state = TrainingState(base, SHAPES[0], tensors_of(base, SHAPES[0], 0))
    wrapper.export(state.parameters, tmp_path, "x")
    model = plain(base, tmp_path, train=True)
    theirs = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)

    assert theirs.keys() == state.parameters.keys()
    for seed in range(3):
        output = compute(state, data(seed))
        logprobs, loss = plain_step(model, data(seed))
        for mine, expected in zip(output.logprobs, logprobs, strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-4)
        assert output.metrics["loss:sum"] == pytest.approx(loss, rel=1e-4)
        if not seed:
            for name, parameter in state.parameters.items():
                expected = theirs[name].grad
                scale = max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(
                    parameter.grad, expected, atol=1e-4 * scale, rtol=1e-3, msg=name
                )
        state.optim_step(STEP)
        optimizer.step()
        optimizer.zero_grad()


def test_a_run_continues_from_a_snapshot_bit_for_bit(base: LoadedBase, tmp_path: Path) -> None:
    state = TrainingState(base, SHAPES[0], tensors_of(base, SHAPES[0], 0))
    compute(state, data(0))
    state.optim_step(STEP)
    compute(state, data(1))
    write_tensors(state.tensors(), tmp_path / "s.safetensors")

    again = read_state(base, SHAPES[0], tmp_path / "s.safetensors")
    for run in (state, again):
        compute(run, data(2))
        run.optim_step(STEP)

    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, again.parameters[name]), name


def train_and_sample(engine: Any, kill: Callable[[], None]) -> dict[str, list[float | list[int]]]:
    """Return losses and sampled tokens of a run on each architecture; KILL is called meanwhile."""
    service = tinker.ServiceClient(base_url=engine.url, api_key=MASTER)
    runs = {
        kind: service.create_lora_training_client(f"tiny/{kind}", rank=4, seed=9).result()
        for kind in KINDS
    }
    prompt = types.ModelInput.from_ints([5, 6, 7])
    settings = types.SamplingParams(max_tokens=30, seed=4, stop=[])
    futures: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    samples = {}
    for kind, run in runs.items():
        for seed in range(3):
            examples = [
                types.Datum(
                    model_input=types.ModelInput.from_ints(datum.tokens.tolist()),
                    loss_fn_inputs=dict(datum.inputs),
                )
                for datum in data(seed)
            ]
            futures[kind].append(run.forward_backward(examples, "cross_entropy"))
            run.optim_step(types.AdamParams(learning_rate=1e-2))
        sampler = run.save_weights_and_get_sampling_client()
        samples[kind] = sampler.result().sample(prompt, 3, settings)
    kill()
    found: dict[str, list[float | list[int]]] = {}
    for kind in KINDS:
        found[kind] = [each.result().metrics["loss:sum"] for each in futures[kind]]
        found[kind] += [each.tokens for each in samples[kind].result().sequences]
    return found


def test_a_kill_changes_no_bit_of_training_or_samples(
    start_engine: Callable[..., Any], make_tiny: Callable[[str, int], Path]
) -> None:
    served = [f"--model=tiny/{kind}={make_tiny(kind, CONTEXT)}" for kind in KINDS]
    engine = start_engine(*served, "--snapshot-seconds", "0.2")

    def kill() -> None:
        engine.kill()
        engine.start()

    undisturbed = train_and_sample(start_engine(*served), lambda: None)
    assert train_and_sample(engine, kill) == undisturbed


def sample(
    base: LoadedBase,
    requests: Sequence[tuple[Plan, Path | None]],
    between: Callable[[SamplingBatch], None] = lambda _: None,
) -> list[Any]:
    """Sample REQUESTS of several clients, each joining some steps after the one before."""
    batch = SamplingBatch(base, base.sampling_network, rows=64, tokens=65536)
    results: dict[int, bytes] = {}
    for i, (plan, folder) in enumerate(requests):
        batch.add(
            BatchRequest(
                plan,
                StopCondition(plan, base),
                lambda result, i=i: results.update({i: result}),
                pytest.fail,
                lambda folder=folder: folder,
                client=str(i % 3),
            )
        )
        for _ in range(3):
            batch.advance()
    while batch.busy:
        between(batch)
        batch.advance()
    return [response_conv.deserialize_sample_response(results[i]) for i in range(len(requests))]


def plan(prompt: Sequence[int] | np.ndarray, tokens: int, **fields: Any) -> Plan:
    settings = {"temperature": 0.0, "samples": 1, "seed": 1, "scored": 0} | fields
    return Plan(
        np.array(prompt),
        settings["samples"],
        tokens,
        settings["seed"],
        settings["temperature"],
        0,
        1.0,
        (),
        settings["scored"],
        0,
        0,
        None,
        0,
    )


def test_greedy_completions_of_200_tokens_are_those_of_transformers(
    base: LoadedBase, tmp_path: Path
) -> None:
    folders = [adapter(base, tmp_path / f"{i}", i) for i in range(2)]
    random = np.random.default_rng(0)
    wanted = [folders[0], None, folders[1], folders[0], folders[1], folders[1]]
    requests = [
        (plan(random.integers(3, 90, length), 200 if folder is None else 40, scored=length), folder)
        for length, folder in zip((1, 40, 9, 30, 2, 17), wanted, strict=True)
    ]
    models = {folder: plain(base, folder) for folder in (None, *folders)}

    together = sample(base, requests)
    base.prefixes.clear()
    alone = [sample(base, [request])[0] for request in requests]

    for (one, folder), result, single in zip(requests, together, alone, strict=True):
        (sequence,) = result.sequences
        assert sequence.tokens == single.sequences[0].tokens
        np.testing.assert_allclose(sequence.logprobs, single.sequences[0].logprobs, atol=5e-4)
        tokens = torch.tensor([*one.prompt.tolist(), *sequence.tokens])
        with torch.no_grad():
            logits = models[folder](input_ids=tokens[None], use_cache=False).logits[0]
        scores = torch.log_softmax(logits, -1)
        start = len(one.prompt) - 1
        assert scores[start:-1].argmax(-1).tolist() == sequence.tokens
        expected = scores[torch.arange(len(tokens) - 1), tokens[1:]].numpy()
        np.testing.assert_allclose(sequence.logprobs, expected[start:], atol=5e-4)
        np.testing.assert_allclose(result.prompt_logprobs[1:], expected[:start], atol=5e-4)


def test_equal_prompts_and_the_next_turn_of_a_chat_use_cached_states(base: LoadedBase) -> None:
    base.prefixes.clear()
    prompt = np.random.default_rng(0).integers(3, 90, 40)
    first, again = sample(base, [(plan(prompt, 12), None), (plan(prompt, 12, seed=2), None)])
    message = np.random.default_rng(1).integers(3, 90, 5)
    longer = np.concatenate([prompt, first.sequences[0].tokens, message])
    other = np.concatenate([prompt[:30], message])

    cached = [sample(base, [(plan(each, 12), None)])[0] for each in (longer, other)]
    computed = []
    for each in (longer, other):
        base.prefixes.clear()
        computed += sample(base, [(plan(each, 12), None)])

    assert again.sequences[0].tokens == first.sequences[0].tokens
    assert again.prompt_cache_hit_tokens == 39
    assert cached[0].prompt_cache_hit_tokens == 40 + 11
    # A recurrent state serves only what continues after all of its tokens.
    cut = 0 if base.sampling_network.recurrent else 30
    assert (cached[1].prompt_cache_hit_tokens or 0) == cut
    for a, b in zip(cached, computed, strict=True):
        assert a.sequences[0].tokens == b.sequences[0].tokens
        np.testing.assert_allclose(a.sequences[0].logprobs, b.sequences[0].logprobs, atol=5e-4)


def test_many_samples_of_one_prompt_are_those_of_each_alone(base: LoadedBase) -> None:
    together = plan([5, 6, 7, 8], 30, samples=5, temperature=1.0)
    short = plan([9] * 20, 7, temperature=1.0, samples=3)

    both = sample(base, [(together, None), (short, None)])
    base.prefixes.clear()
    (alone,) = sample(base, [(together, None)])

    assert [s.tokens for s in both[0].sequences] == [s.tokens for s in alone.sequences]
    assert len({tuple(s.tokens) for s in alone.sequences}) == 5


@pytest.mark.parametrize("kind", ["gpt_oss", "inkling"])
def test_a_sliding_window_bounds_the_cache_of_its_layers(
    kind: str, make_tiny: Callable[[str, int], Path]
) -> None:
    base = LoadedBase(inspect_model(kind, make_tiny(kind, CONTEXT)), Device())
    places: dict[int | None, int] = {}

    def look(batch: SamplingBatch) -> None:
        for client in batch._clients.values():
            for layer in client.cache.layers:
                if isinstance(layer, KeyValueSlots):
                    places[layer.window] = max(places.get(layer.window, 0), layer.keys.shape[2])

    sample(base, [(plan([5] * 50, 100), None)], look)

    assert places[8] == 8
    assert places[None] >= 149


def test_the_text_tower_of_a_vision_model_is_served_alone(
    make_tiny: Callable[[str, int], Path], tmp_path: Path
) -> None:
    shutil.copytree(make_tiny("qwen3_5", CONTEXT), tmp_path, dirs_exist_ok=True)
    text = json.loads((tmp_path / "config.json").read_text())
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    vision |= {"out_hidden_size": 32, "num_position_embeddings": 16}
    config = Qwen3_5Config(text_config=text, vision_config=vision)
    whole = Qwen3_5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    served = inspect_model("vision", tmp_path)
    check_architecture(served)

    base = LoadedBase(served, Device())

    assert served.architecture == "Qwen3_5ForCausalLM"
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = whole(input_ids=tokens, use_cache=False).logits
        torch.testing.assert_close(base.plain.causal_lm(input_ids=tokens).logits, expected)
    weights = base.plain.causal_lm.parameters()
    assert memory.parameters(tmp_path) == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize("kind", ["nemotron_h_omni", "inkling"])
def test_settings_are_read_under_their_published_names(
    kind: str, make_tiny: Callable[[str, int], Path], tmp_path: Path
) -> None:
    shutil.copytree(make_tiny(kind, CONTEXT), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    if kind == "inkling":
        text = config["text_config"]
        text["model_max_length"] = text.pop("max_position_embeddings")
        del text["mlp_layer_types"]
        text["dense_intermediate_size"] = text["intermediate_size"]
        text |= {"dense_mlp_idx": 1, "intermediate_size": text.pop("moe_intermediate_size")}
    else:
        config["llm_config"] = config.pop("text_config")
    (tmp_path / "config.json").write_text(json.dumps(config))

    published, own = (
        LoadedBase(inspect_model(kind, path), Device()).plain
        for path in (tmp_path, make_tiny(kind, CONTEXT))
    )

    tokens = torch.arange(3, 40)[None]
    assert inspect_model(kind, tmp_path).context == CONTEXT
    with torch.no_grad():
        expected = own.logits(own.hidden(tokens))
        torch.testing.assert_close(published.logits(published.hidden(tokens)), expected)


def test_an_indexer_that_selects_whole_pools_only_is_refused(
    make_tiny: Callable[[str, int], Path], tmp_path: Path
) -> None:
    shutil.copytree(make_tiny("glm5_next", CONTEXT), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["index_kpool_always_select_tail"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(Refused, match="its first tokens would read nothing"):
        check_architecture(inspect_model("glm", tmp_path))


def test_mxfp4_weights_are_converted_when_they_are_loaded(
    make_tiny: Callable[[str, int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(make_tiny("gpt_oss", CONTEXT), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    expected = {}
    random = np.random.default_rng(0)
    # The values of a 4-bit float with two exponent bits (OCP Microscaling, 2023).
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = random.integers(0, 256, (experts, outputs, inputs // 32, 16), dtype=np.uint8)
        scales = random.integers(122, 127, (experts, outputs, inputs // 32), dtype=np.uint8)
        pairs = np.stack([values[blocks & 15], values[blocks >> 4]], axis=-1)
        whole = pairs.reshape(*scales.shape, 32) * 2.0 ** (scales[..., None].astype(int) - 127)
        expected[name] = torch.from_numpy(whole.reshape(experts, outputs, inputs)).transpose(1, 2)
        tensors[f"{name}_blocks"] = torch.from_numpy(blocks)
        tensors[f"{name}_scales"] = torch.from_numpy(scales)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    base = LoadedBase(inspect_model("packed", folder), Device())

    weights = dict(base.plain.causal_lm.named_parameters())
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor.float()), name
    assert memory.parameters(folder) == sum(p.numel() for p in weights.values())
    state = TrainingState(base, SHAPES[0], tensors_of(base, SHAPES[0], 0))
    assert np.isfinite(compute(state, data(0)).metrics["loss:sum"])
    (answer,) = sample(base, [(plan([5, 6, 7], 20), None)])
    assert len(answer.sequences[0].tokens) == 20


def test_an_indexer_selects_the_first_of_equal_scores_and_the_same_ones_in_parts(
    make_tiny: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 2.0]])
    base = LoadedBase(inspect_model("glm", make_tiny("glm_moe_dsa", CONTEXT)), Device())
    tokens = torch.arange(200)[None] % 90 + 3
    with torch.no_grad():
        whole = base.plain.hidden(tokens)
        monkeypatch.setattr(indexer, "SCORES", 2**14)

        torch.testing.assert_close(base.plain.hidden(tokens), whole, atol=1e-4, rtol=1e-4)
    assert indexer._largest(scores, 3).tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 1]]


def test_scores_by_distance_are_the_same_in_blocks(
    make_tiny: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = LoadedBase(inspect_model("inkling2", make_tiny("inkling2", CONTEXT)), Device())
    runs = [TrainingState(base, SHAPES[0], tensors_of(base, SHAPES[0], 0)) for _ in range(2)]

    whole = compute(runs[0], data(0))
    monkeypatch.setattr(relative_attention, "BLOCK", 7)
    parts = compute(runs[1], data(0))

    for mine, expected in zip(parts.logprobs, whole.logprobs, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-4)
    for name, parameter in runs[0].parameters.items():
        found = runs[1].parameters[name].grad
        torch.testing.assert_close(found, parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


def in_fp8(weight: torch.Tensor, prefix: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the stored tensors of WEIGHT in FP8 with a scale for each 16 x 16, and their value."""
    rows, columns = weight.shape
    scale = torch.rand(-(-rows // 16), -(-columns // 16)) * 0.02 + 0.001
    whole = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)[:rows, :columns]
    numbers = (weight / whole).to(torch.float8_e4m3fn)
    stored = {f"{prefix}.weight": numbers, f"{prefix}.weight_scale_inv": scale}
    return stored, numbers.float() * whole


def in_int4(weight: torch.Tensor, prefix: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the stored tensors of WEIGHT as packed integers in groups of 8, and their value."""
    rows, columns = weight.shape
    scale = (torch.rand(rows, columns // 8) * 0.05 + 0.01).bfloat16()
    whole = scale.float().repeat_interleave(8, 1)
    numbers = (weight / whole).round().clamp(-8, 7)
    # The first of eight numbers is in the lowest bits.
    digits = (numbers + 8).to(torch.int64).view(rows, -1, 8) * 16 ** torch.arange(8)
    packed = digits.sum(-1)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
    stored = {f"{prefix}.weight_packed": packed, f"{prefix}.weight_scale": scale}
    return stored | {f"{prefix}.weight_shape": torch.tensor([rows, columns])}, numbers * whole


def in_mxfp8(weight: torch.Tensor, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the stored tensors of WEIGHT in FP8 with a power of two for 16 numbers of a row."""
    powers = torch.randint(121, 125, (*weight.shape[:-1], weight.shape[-1] // 16)).to(torch.uint8)
    whole = (2.0 ** (powers.float() - 127)).repeat_interleave(16, -1)
    numbers = (weight / whole).to(torch.float8_e4m3fn)
    scale = powers.view(torch.float8_e8m0fnu)
    return {name: numbers, f"{name}_scale": scale}, numbers.float() * whole


def in_deepseek_v4(
    weight: torch.Tensor, prefix: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the stored tensors of WEIGHT, and their value: experts are in 4 bits, others in FP8.

    Scales are powers of two: for 16 numbers of a row, or for each 16 x 16.
    """
    rows, columns = weight.shape
    height = 1 if ".experts." in prefix else 16
    powers = torch.randint(121, 125, (-(-rows // height), -(-columns // 16))).to(torch.uint8)
    scale = powers.view(torch.float8_e8m0fnu)
    whole = 2.0 ** (powers.float() - 127)
    whole = whole.repeat_interleave(height, 0).repeat_interleave(16, 1)[:rows, :columns]
    if height > 1:
        numbers = (weight / whole).to(torch.float8_e4m3fn)
        return {f"{prefix}.weight": numbers, f"{prefix}.scale": scale}, numbers.float() * whole
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    digits = torch.randint(0, 16, (rows, columns))
    octets = (digits[:, ::2] + 16 * digits[:, 1::2]).to(torch.uint8)
    stored = {f"{prefix}.weight": octets.view(torch.int8), f"{prefix}.scale": scale}
    return stored, values[digits] * whole


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "strategy": "group",
                "group_size": 8,
                "symmetric": True,
            },
        }
    },
}


@pytest.mark.parametrize(
    ("kind", "settings", "chosen", "quantize"),
    [
        ("deepseek_v3", FP8, r".*_proj\.weight", in_fp8),
        ("kimi_k25", INT4, r".*experts\..*_proj\.weight", in_int4),
        # Its published settings do not say that it is quantized.
        ("inkling2", None, r".*\.w\d+_weight", in_mxfp8),
        ("glm5_next", FP8, r".*_proj\.weight", in_fp8),
        (
            "deepseek_v4",
            FP8 | {"scale_fmt": "ue8m0", "expert_dtype": "fp4"},
            r".*\.(?:attn|indexer|experts\.\d|shared_experts)\.w(?!eights_proj)\w+\.weight",
            in_deepseek_v4,
        ),
    ],
    ids=["fp8", "int4", "mxfp8", "fp8-tower", "fp4"],
)
def test_quantized_weights_are_converted_one_by_one(
    make_tiny: Callable[[str, int], Path],
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any] | None,
    chosen: str,
    quantize: Callable[[torch.Tensor, str], tuple[dict[str, torch.Tensor], torch.Tensor]],
) -> None:
    for name in ("packed", "plain"):
        shutil.copytree(make_tiny(kind, CONTEXT), tmp_path / name)
    config = json.loads((tmp_path / "packed/config.json").read_text())
    # Kimi's files name it with the decoder's settings.
    decoder = config.get("text_config", config)
    if settings is None:
        del config["transformers_version"]
    else:
        decoder["quantization_config"] = settings
    (tmp_path / "packed/config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "plain/model.safetensors")
    if kind == "deepseek_v4":
        # transformers saves these names otherwise than they are published.
        names = {name: name.removeprefix("model.") for name in tensors}
        names["model.embed_tokens.weight"] = "embed.weight"
        tensors = {names[name].replace("hc_head.hc_", "hc_head_"): t for name, t in tensors.items()}
    # Published files have one more layer, which predicts several tokens and is not loaded.
    further = {f"model.layers.{decoder['num_hidden_layers']}.eh_proj.weight": torch.ones(2)}
    packed, expected = dict(tensors) | further, dict(tensors)
    torch.manual_seed(0)
    for name in [n for n in tensors if re.fullmatch(chosen, n)]:
        stored, expected[name] = quantize(packed.pop(name), name.removesuffix(".weight"))
        packed |= stored
    save_file(packed, tmp_path / "packed/model.safetensors", metadata={"format": "pt"})
    save_file(expected, tmp_path / "plain/model.safetensors", metadata={"format": "pt"})

    base = LoadedBase(inspect_model("packed", tmp_path / "packed"), Device())

    plain = LoadedBase(inspect_model("plain", tmp_path / "plain"), Device()).plain.causal_lm
    weights = dict(base.plain.causal_lm.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    kept = base.plain.causal_lm.state_dict().values()
    assert memory.parameters(tmp_path / "packed") == sum(tensor.numel() for tensor in kept)
    assert base.eos == {2}
