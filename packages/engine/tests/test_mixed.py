"""Samples of different adapters in one batch: each gets what it would get alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute import multi_adapter
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import NAN_LOGITS, SamplingBatch
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.sampling import Plan, StopCondition
from dreadnode_engine.errors import OperationFailed
from tinker.proto import response_conv

SHAPES = [
    LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True),
    LoraShape(8, train_mlp=False, train_attn=True, train_unembed=False),
    LoraShape(2, train_mlp=True, train_attn=False, train_unembed=True),
]
PLAN = Plan(np.array([5, 6, 7, 8]), 1, 12, 0, 1.0, 0, 1.0, (), 4, 2, 2, None, 0)


@pytest.fixture(scope="module", params=["llama", "qwen3", "qwen3_moe"])
def base(request: pytest.FixtureRequest, models_dir: Path) -> LoadedBase:
    return LoadedBase(inspect_model(request.param, models_dir / request.param), Device())


@pytest.fixture(scope="module")
def llama(models_dir: Path) -> LoadedBase:
    return LoadedBase(inspect_model("llama", models_dir / "llama"), Device())


def adapter(base: LoadedBase, shape: LoraShape, folder: Path, seed: int = 0) -> Path:
    """Save an adapter that changes a lot."""
    wrapper, _ = base.wrapper_for(shape)
    generator = torch.Generator().manual_seed(seed)
    sizes = wrapper.shapes.items()
    tensors = {name: torch.randn(size, generator=generator) * 0.15 for name, size in sizes}
    folder.mkdir(parents=True)
    wrapper.save(tensors, folder, "x")
    return folder


def decode(
    base: LoadedBase,
    requests: Sequence[tuple[Plan, Path | None]],
    failed: Callable[[str], None] = pytest.fail,
    between: Callable[[SamplingBatch, int], None] = lambda batch, step: None,
    **limits: int,
) -> list[Any]:
    """Decode REQUESTS, each joining some steps after the one before; None for one that failed."""
    batch = SamplingBatch(base, base.sampling_network, **{"rows": 64, "tokens": 65536, **limits})
    answers: dict[int, bytes] = {}
    for i, (one, folder) in enumerate(requests):
        batch.add(
            BatchRequest(
                one,
                StopCondition(one, base),
                lambda answer, i=i: answers.update({i: answer}),
                failed,
                lambda folder=folder: folder,
                client=str(i),
            )
        )
        for _ in range(2):
            batch.advance()
    step = 0
    while batch.busy:
        between(batch, step)
        batch.advance()
        step += 1
    return [
        response_conv.deserialize_sample_response(answers[i]) if i in answers else None
        for i in range(len(requests))
    ]


def by_peft(base: LoadedBase, shape: LoraShape, folder: Path, tokens: list[int]) -> torch.Tensor:
    """Score TOKENS with the adapter in FOLDER, as the trainer computes them."""
    wrapper, network = base.wrapper_for(shape)
    wrapper.bind(wrapper.load(folder))
    with torch.no_grad():
        return torch.log_softmax(network.logits(network.hidden(torch.tensor([tokens]))[0]), -1)


def test_every_row_uses_its_own_adapter_and_matches_the_trainers_logprobs(
    base: LoadedBase, tmp_path: Path
) -> None:
    folders = [adapter(base, shape, tmp_path / f"{i}", i) for i, shape in enumerate(SHAPES)]
    lengths = np.random.default_rng(0).integers(2, 40, 8)
    prompts = [np.random.default_rng(i).integers(3, 90, n) for i, n in enumerate(lengths)]
    wanted = [0, 1, None, 2, 0, None, 1, 2]
    requests = [
        (replace(PLAN, prompt=p, seed=i, prompt_logprobs=len(p)), None if w is None else folders[w])
        for i, (p, w) in enumerate(zip(prompts, wanted, strict=True))
    ]

    answers = decode(base, requests)

    for (one, _), which, answer in zip(requests, wanted, answers, strict=True):
        tokens = [*one.prompt.tolist(), *answer.sequences[0].tokens]
        if which is None:
            with torch.no_grad():
                logits = base.plain.causal_lm(input_ids=torch.tensor([tokens])).logits[0]
            scores = torch.log_softmax(logits, -1)
        else:
            scores = by_peft(base, SHAPES[which], folders[which], tokens)
        expected = scores[torch.arange(len(tokens) - 1), tokens[1:]].numpy()
        split = len(one.prompt) - 1
        np.testing.assert_allclose(
            answer.prompt_logprobs[1:], expected[:split], rtol=1e-5, atol=5e-5
        )
        np.testing.assert_allclose(
            answer.sequences[0].logprobs, expected[split:], rtol=1e-5, atol=5e-5
        )


def test_a_seed_gives_the_same_tokens_alone_and_beside_other_adapters(
    base: LoadedBase, tmp_path: Path
) -> None:
    folders = [adapter(base, shape, tmp_path / f"{i}", i) for i, shape in enumerate(SHAPES)]
    requests = [
        (replace(PLAN, seed=i, samples=1 + i % 3), folder)
        for i, folder in enumerate([folders[0], None, folders[1], folders[2], folders[0], None])
    ]

    together = decode(base, requests)
    alone = [decode(base, [one])[0] for one in requests]

    for a, b in zip(together, alone, strict=True):
        assert [s.tokens for s in a.sequences] == [s.tokens for s in b.sequences]


def test_rows_of_the_base_model_equal_a_batch_without_adapters_bit_for_bit(
    llama: LoadedBase, tmp_path: Path
) -> None:
    folder = adapter(llama, SHAPES[0], tmp_path / "a")
    plans = [replace(PLAN, seed=i) for i in range(4)]

    mixed_with = decode(llama, [(one, folder if i % 2 else None) for i, one in enumerate(plans)])
    without = decode(llama, [(one, None) for one in plans])

    for i in (0, 2):
        assert mixed_with[i].sequences[0].logprobs == without[i].sequences[0].logprobs


def test_a_single_adapter_is_not_copied_and_nothing_stays_in_memory_at_the_end(
    llama: LoadedBase, tmp_path: Path
) -> None:
    folders = [adapter(llama, SHAPES[0], tmp_path / f"{i}", i) for i in range(7)]
    llama.sampling_network.drop_idle()
    seen: list[int] = []
    one_adapter = llama.sampling_network.load(folders[0]).bytes

    decode(
        llama, [(PLAN, folders[0])], between=lambda *_: seen.append(llama.sampling_network.bytes)
    )
    assert set(seen) == {one_adapter}
    decode(llama, [(PLAN, folder) for folder in folders])

    assert llama.sampling_network.bytes == multi_adapter.IDLE_ADAPTERS * one_adapter
    llama.sampling_network.drop_idle()
    assert llama.sampling_network.bytes == 0


def test_an_adapter_beyond_the_limit_waits_for_room(
    llama: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [adapter(llama, SHAPES[0], tmp_path / f"{i}", i) for i in range(5)]
    requests = [(replace(PLAN, seed=i), folder) for i, folder in enumerate(folders)]
    free = decode(llama, requests)

    monkeypatch.setattr(multi_adapter, "MAX_RANKS", 2 * SHAPES[0].rank)
    seen: list[int] = []
    one_adapter = llama.sampling_network.load(folders[0]).bytes
    tight = decode(llama, requests, between=lambda *_: seen.append(llama.sampling_network.bytes))

    # Two side by side, and what is kept for the next request.
    assert max(seen) <= (2 + 2 + multi_adapter.IDLE_ADAPTERS) * one_adapter
    for a, b in zip(free, tight, strict=True):
        assert a.sequences[0].tokens == b.sequences[0].tokens


def test_deleted_weights_fail_only_their_own_request(llama: LoadedBase, tmp_path: Path) -> None:
    folder = adapter(llama, SHAPES[0], tmp_path / "a")
    problems: list[str] = []

    requests = [(PLAN, folder), (PLAN, tmp_path / "gone"), (PLAN, None)]
    answers = decode(llama, requests, failed=problems.append)

    assert [answer is None for answer in answers] == [False, True, False]
    assert problems == ["The weights of this sampler were deleted; save them again"]


def test_an_adapter_with_wrong_shapes_or_infinite_values_is_refused(
    llama: LoadedBase, models_dir: Path, tmp_path: Path
) -> None:
    other = LoadedBase(inspect_model("moe", models_dir / "qwen3_moe"), Device())
    foreign = adapter(other, SHAPES[0], tmp_path / "foreign")
    wrapper, _ = llama.wrapper_for(SHAPES[0])
    broken = {name: torch.full(size, torch.inf) for name, size in wrapper.shapes.items()}
    wrapper.save(broken, tmp_path, "x")

    with pytest.raises(OperationFailed, match="does not fit"):
        llama.sampling_network.load(foreign)
    with pytest.raises(OperationFailed, match="not all finite"):
        llama.sampling_network.load(tmp_path)


def test_weights_that_overflow_fail_only_their_own_request(
    llama: LoadedBase, tmp_path: Path
) -> None:
    wrapper, _ = llama.wrapper_for(SHAPES[0])
    huge = {name: torch.full(size, 1e30) for name, size in wrapper.shapes.items()}
    wrapper.save(huge, tmp_path, "x")
    greedy, few = replace(PLAN, temperature=0.0), replace(PLAN, top_k=3, samples=5)
    problems: list[str] = []

    requests = [(PLAN, None), (PLAN, tmp_path), (greedy, tmp_path), (few, tmp_path), (PLAN, None)]
    answers = decode(llama, requests, failed=problems.append, rows=4)

    assert [answer is None for answer in answers] == [False, True, True, True, False]
    assert problems == [NAN_LOGITS] * 3


def test_a_running_sample_uses_replaced_weights_from_the_next_token_on(
    llama: LoadedBase, tmp_path: Path
) -> None:
    first, second = (adapter(llama, SHAPES[0], tmp_path / f"{i}", i) for i in range(2))
    current = [first]
    one = replace(PLAN, prompt_logprobs=0)
    answers: list[bytes] = []
    batch = SamplingBatch(llama, llama.sampling_network, rows=64, tokens=65536)
    batch.add(
        BatchRequest(
            one, StopCondition(one, llama), answers.append, pytest.fail, lambda: current[0]
        )
    )
    for _ in range(5):
        batch.advance()
    current[0] = second
    while batch.busy:
        batch.advance()

    (mixed_up,) = (response_conv.deserialize_sample_response(answer) for answer in answers)
    (before,) = decode(llama, [(one, first)])
    (after,) = decode(llama, [(one, second)])
    logprobs = [answer.sequences[0].logprobs for answer in (mixed_up, before, after)]
    assert logprobs[0][:5] == logprobs[1][:5]
    assert logprobs[0][5:] != logprobs[1][5:]
    assert logprobs[0] != logprobs[2]


def test_clients_take_turns_independent_of_their_number_of_requests(llama: LoadedBase) -> None:
    order: list[str] = []
    batch = SamplingBatch(llama, llama.sampling_network, rows=2, tokens=65536)
    short = replace(PLAN, max_tokens=2)
    for client in ["greedy"] * 6 + ["modest"] * 2:
        stop_condition = StopCondition(short, llama)
        done = lambda _, client=client: order.append(client)  # noqa: E731
        batch.add(BatchRequest(short, stop_condition, done, pytest.fail, client=client))
    wide = replace(PLAN, samples=20, max_tokens=2)
    batch.add(
        BatchRequest(wide, StopCondition(wide, llama), lambda _: order.append("wide"), pytest.fail)
    )

    assert batch.clients == 3
    while batch.busy:
        batch.advance()

    assert order.index("modest") <= 1
    assert order[:5].count("modest") == 2
    assert order[-1] == "wide"


def test_an_isolated_request_runs_alone_and_is_reported_as_running(
    llama: LoadedBase,
) -> None:
    said: list[set[str]] = []
    done: list[str] = []
    batch = SamplingBatch(
        llama,
        llama.sampling_network,
        rows=4,
        tokens=65536,
        mark_computing=lambda n: said.append(set(n)),
    )
    for name, samples in (("first", 1), ("alone", 6), ("second", 1), ("third", 1)):
        one = replace(PLAN, samples=samples, max_tokens=3)
        note = lambda _, name=name: done.append(name)  # noqa: E731
        stop_condition = StopCondition(one, llama)
        request_ = BatchRequest(
            one, stop_condition, note, pytest.fail, name=name, alone=name == "alone"
        )
        batch.add(request_)
    while batch.busy:
        batch.advance()

    assert done == ["first", "alone", "second", "third"]
    assert {"second", "third"} in said
    assert all(names == {"alone"} for names in said if "alone" in names)


def test_the_cache_never_exceeds_its_token_limit(llama: LoadedBase) -> None:
    random = np.random.default_rng(0)
    lengths = [(int(a), int(b)) for a, b in random.integers(1, 60, (24, 2))]
    batch = SamplingBatch(llama, llama.sampling_network, rows=64, tokens=300)
    for i, (prompt, new) in enumerate(lengths):
        one = replace(PLAN, prompt=random.integers(3, 90, prompt), max_tokens=new)
        batch.add(
            BatchRequest(one, StopCondition(one, llama), lambda _: None, pytest.fail, client=str(i))
        )
    most = 0
    while batch.busy:
        batch.advance()
        held = sum(client.cache.count * client.span for client in batch._clients.values())
        most = max(most, held)

    assert 200 < most <= 300


def test_a_cancelled_request_frees_its_rows_and_the_others_continue(llama: LoadedBase) -> None:
    plans = [replace(PLAN, seed=i, samples=3) for i in range(3)]
    (expected,) = decode(llama, [(plans[2], None)])
    answers: dict[int, bytes] = {}
    batch = SamplingBatch(llama, llama.sampling_network, rows=7, tokens=65536)
    requests_ = [
        BatchRequest(
            one, StopCondition(one, llama), lambda a, i=i: answers.update({i: a}), pytest.fail
        )
        for i, one in enumerate(plans)
    ]
    for request_ in requests_:
        batch.add(request_)
    for _ in range(4):
        batch.advance()
    batch.drop(requests_[0])
    batch.drop(requests_[1])
    while batch.busy:
        batch.advance()

    assert answers.keys() == {2}
    answer = response_conv.deserialize_sample_response(answers[2])
    assert [s.tokens for s in answer.sequences] == [s.tokens for s in expected.sequences]


def test_a_network_with_many_adapters_shares_every_base_weight(base: LoadedBase) -> None:
    own = {p.data_ptr() for p in base.plain.causal_lm.parameters()}

    network = MultiAdapterNetwork(base.plain.causal_lm)

    assert {p.data_ptr() for p in network.causal_lm.parameters()} == own


@torch.no_grad()
def test_a_client_with_one_row_does_not_wait_for_a_client_with_many(llama: LoadedBase) -> None:
    done: list[str] = []
    batch = SamplingBatch(llama, llama.sampling_network, rows=16, tokens=65536)
    long = replace(PLAN, samples=8, max_tokens=60, prompt_logprobs=0)
    short = replace(PLAN, max_tokens=10, prompt_logprobs=0)

    def add(plan: Plan, client: str) -> BatchRequest:
        stop_condition = StopCondition(plan, llama)
        note = lambda _: done.append(client)  # noqa: E731
        batch.add(BatchRequest(plan, stop_condition, note, pytest.fail, client=client))
        return batch._clients[client].waiting[-1]

    for _ in range(2):
        add(long, "many")
    for _ in range(4):
        batch.advance()
    request = add(short, "one")
    steps = [0, 0]
    while "one" not in done:
        before = len(batch._clients["many"].rows[0].completion.tokens)
        batch.advance()
        moved = len(batch._clients["many"].rows[0].completion.tokens) > before
        steps[moved] += 1

    # Alone it takes one prompt and nine steps; a step of the other's sixteen rows costs 24 / 9.
    assert len(request.completions[0].tokens) == 10
    cost = steps[0] * 9 + steps[1] * 25
    assert cost <= 2 * 10 * 9 + 25
    # Both get half of the computing.
    assert steps[1] >= 3


def test_a_new_client_replaces_a_row_which_later_resumes_unchanged(
    llama: LoadedBase, tmp_path: Path
) -> None:
    folder = adapter(llama, SHAPES[0], tmp_path / "a")
    plans = [replace(PLAN, seed=i, samples=2, max_tokens=20, prompt_logprobs=0) for i in range(3)]
    late = replace(PLAN, seed=9, max_tokens=4)
    alone = [decode(llama, [(one, folder)])[0] for one in plans]
    order: list[int] = []
    answers: dict[int, bytes] = {}
    batch = SamplingBatch(llama, llama.sampling_network, rows=6, tokens=65536)

    def add(index: int, plan: Plan, client: str) -> None:
        def done(result: bytes) -> None:
            order.append(index)
            answers[index] = result

        stop_condition = StopCondition(plan, llama)
        batch.add(
            BatchRequest(plan, stop_condition, done, pytest.fail, lambda: folder, client=client)
        )

    for index, plan in enumerate(plans):
        add(index, plan, "first")
    for _ in range(6):
        batch.advance()
    add(3, late, "second")
    batch.advance()
    paused = len(batch._clients["first"].paused)
    while batch.busy:
        batch.advance()

    assert paused == 1
    assert order[0] == 3
    for index, expected in enumerate(alone):
        answer = response_conv.deserialize_sample_response(answers[index])
        assert [s.tokens for s in answer.sequences] == [s.tokens for s in expected.sequences]


@torch.no_grad()
def test_both_decoding_paths_give_the_same_logits(base: LoadedBase, tmp_path: Path) -> None:
    folders = [adapter(base, shape, tmp_path / f"{i}", i) for i, shape in enumerate(SHAPES)]
    requests = [
        (replace(PLAN, seed=i), folder) for i, folder in enumerate([folders[0], None, folders[1]])
    ]
    network = base.sampling_network
    fused = network._fused

    assert fused is not None
    ours = decode(base, requests)
    try:
        network.use_transformers()
        theirs = decode(base, requests)
    finally:
        network._fused = fused

    for a, b in zip(ours, theirs, strict=True):
        assert a.sequences[0].tokens == b.sequences[0].tokens
        np.testing.assert_allclose(
            a.sequences[0].logprobs, b.sequences[0].logprobs, rtol=1e-5, atol=5e-5
        )
