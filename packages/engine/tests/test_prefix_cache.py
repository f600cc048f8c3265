"""Prompts that begin alike are computed once, for one owner and one set of weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.layer_states import KeyValues
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.prefix_cache import PrefixCache
from dreadnode_engine.compute.sampling import Plan, StopCondition
from tinker.proto import response_conv

SHAPE = LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True)
PROMPT = np.random.default_rng(0).integers(3, 90, 40)
PLAN = Plan(PROMPT, 1, 8, 3, 1.0, 0, 1.0, (), 0, 0, 0, None, 0)


@pytest.fixture(scope="module", params=["llama", "qwen3", "qwen3_moe"])
def loaded(request: pytest.FixtureRequest, models_dir: Path) -> LoadedBase:
    return LoadedBase(inspect_model(request.param, models_dir / request.param), Device())


@pytest.fixture
def base(loaded: LoadedBase) -> Iterator[LoadedBase]:
    loaded.prefixes.clear()
    yield loaded
    loaded.prefixes.clear()


def adapter(base: LoadedBase, folder: Path, seed: int) -> Path:
    wrapper, _ = base.wrapper_for(SHAPE)
    generator = torch.Generator().manual_seed(seed)
    sizes = wrapper.shapes.items()
    tensors = {name: torch.randn(size, generator=generator) * 0.15 for name, size in sizes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").unlink(missing_ok=True)
    wrapper.save(tensors, folder, "x")
    return folder


def sample(
    base: LoadedBase, *plans: Plan, owner: str = "a", folder: Path | None = None
) -> list[Any]:
    """Sample PLANS in one batch, as requests of OWNER with the adapter in FOLDER."""
    batch = SamplingBatch(base, base.sampling_network, rows=64, tokens=65536)
    results: dict[int, bytes] = {}
    for index, plan in enumerate(plans):
        batch.add(
            BatchRequest(
                plan,
                StopCondition(plan, base),
                lambda result, index=index: results.update({index: result}),
                pytest.fail,
                lambda: folder,
                owner=owner,
            )
        )
    while batch.busy:
        batch.advance()
    return [response_conv.deserialize_sample_response(results[i]) for i in range(len(plans))]


def second_turn(base: LoadedBase, first: Any) -> Plan:
    """Return a request whose prompt is the first one, its completion, and a new message."""
    message = np.random.default_rng(1).integers(3, 90, 12)
    return replace(PLAN, prompt=np.concatenate([PROMPT, first.sequences[0].tokens, message]))


def test_the_second_message_of_a_chat_computes_only_new_tokens(
    base: LoadedBase, tmp_path: Path
) -> None:
    folder = adapter(base, tmp_path / "a", 0)
    (first,) = sample(base, PLAN, folder=folder)
    plan = second_turn(base, first)

    (cached,) = sample(base, plan, folder=folder)
    base.prefixes.clear()
    (computed,) = sample(base, plan, folder=folder)

    # All but the last token of the completion, which no step has computed.
    assert cached.prompt_cache_hit_tokens == len(PROMPT) + 7
    assert not computed.prompt_cache_hit_tokens
    assert cached.sequences[0].tokens == computed.sequences[0].tokens
    np.testing.assert_allclose(
        cached.sequences[0].logprobs, computed.sequences[0].logprobs, atol=5e-5
    )


def test_requests_of_a_group_compute_their_prompt_once(base: LoadedBase) -> None:
    plans = [replace(PLAN, seed=seed) for seed in range(4)]
    other = replace(PLAN, prompt=PROMPT[::-1].copy())

    together = sample(base, *plans, other)
    base.prefixes.clear()
    alone = []
    for plan in plans:
        alone += sample(base, plan)
        base.prefixes.clear()

    hits = [result.prompt_cache_hit_tokens or 0 for result in together]
    assert hits == [0, 39, 39, 39, 0]
    for a, b in zip(together, alone, strict=False):
        assert a.sequences[0].tokens == b.sequences[0].tokens


def test_a_prefix_is_reused_only_by_its_owner_and_its_weights(
    base: LoadedBase, tmp_path: Path
) -> None:
    folder, other = adapter(base, tmp_path / "a", 0), adapter(base, tmp_path / "b", 1)
    sample(base, PLAN, folder=folder)

    hits = [
        sample(base, PLAN, folder=folder, owner="b")[0].prompt_cache_hit_tokens,
        sample(base, PLAN, folder=other)[0].prompt_cache_hit_tokens,
        sample(base, PLAN)[0].prompt_cache_hit_tokens,
        sample(base, PLAN, folder=folder)[0].prompt_cache_hit_tokens,
    ]
    adapter(base, folder, 2)
    (replaced,) = sample(base, PLAN, folder=folder)
    base.prefixes.clear()
    (computed,) = sample(base, PLAN, folder=folder)

    assert [hit or 0 for hit in hits] == [0, 0, 0, 39]
    assert not replaced.prompt_cache_hit_tokens
    assert replaced.sequences[0].logprobs == computed.sequences[0].logprobs


def test_weights_replaced_during_a_completion_leave_no_prefix(
    base: LoadedBase, tmp_path: Path
) -> None:
    folders = [adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab")]
    current = [folders[0]]
    batch = SamplingBatch(base, base.sampling_network, rows=4, tokens=65536)
    stop_condition = StopCondition(PLAN, base)
    batch.add(BatchRequest(PLAN, stop_condition, lambda _: None, pytest.fail, lambda: current[0]))
    for _ in range(4):
        batch.advance()
    current[0] = folders[1]
    while batch.busy:
        batch.advance()

    kept = [(len(entry.tokens), entry.scope) for entry in base.prefixes._entries.values()]
    assert kept == [(len(PROMPT), ("", base.sampling_network.number(folders[0])))]


def test_prefixes_are_limited_and_the_most_recent_are_kept() -> None:
    state = torch.zeros(1, 2, 20, 8)
    size = 2 * state.nbytes
    cache = PrefixCache(2 * size)
    prompts = [np.full(20, number) for number in range(3)]
    for number in (0, 1):
        cache.add(("a", 0), prompts[number], [KeyValues(state, state)], 0)
    cache.find(("a", 0), prompts[0])
    cache.add(("a", 0), prompts[2], [KeyValues(state, state)], 0)

    found = [cache.find(("a", 0), prompt)[0] for prompt in prompts]
    assert found == [19, 0, 19]
    assert cache.bytes == 2 * size
    cache.add(("a", 0), np.full(10_000, 7), [KeyValues(*(torch.zeros(1, 2, 10_000, 8),) * 2)], 0)
    assert cache.bytes == 2 * size
    cache.add(("a", 0), prompts[0][:5], [KeyValues(state, state)], 0)
    assert len(cache._entries) == 2
