"""Sampling: every parameter does what it says, and company in the batch changes nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreadnode_engine.base_models.discovery import ServedModel, inspect_model
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.sampling import (
    Plan,
    StopCondition,
    TokenSampler,
    parse,
    plan,
    with_seed,
)
from dreadnode_engine.errors import Refused
from tinker.proto import response_conv
from tinker.types import SampleRequest

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module", params=["llama", "qwen3", "qwen3_moe"])
def base(request: pytest.FixtureRequest, models_dir: Path) -> LoadedBase:
    return LoadedBase(inspect_model(request.param, models_dir / request.param), Device())


@pytest.fixture(scope="module")
def llama(models_dir: Path) -> LoadedBase:
    return LoadedBase(inspect_model("llama", models_dir / "llama"), Device())


def request(prompt: list[int] | None = None, **fields: Any) -> bytes:
    params = fields.pop("params", {})
    body = {
        "sampling_session_id": "s",
        "seq_id": 1,
        "num_samples": fields.pop("num_samples", 1),
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": prompt or PROMPT}]},
        "sampling_params": {"max_tokens": 12, "temperature": 1.0, "stop": [], **params},
        **fields,
    }
    return json.dumps(body).encode()


def make_plan(served: ServedModel, *args: Any, seed: int = 0, **fields: Any) -> Plan:
    return plan(parse(request(*args, **fields)), served, seed)


def run(
    base: LoadedBase, plans: list[Plan], network: MultiAdapterNetwork | None = None, **limits: int
) -> Any:
    """Decode PLANS together, each joining some steps after the one before it."""
    batch = SamplingBatch(
        base, network or base.sampling_network, **{"rows": 64, "tokens": 65536, **limits}
    )
    answers: dict[int, bytes] = {}
    for i, one in enumerate(plans):
        stop_condition = StopCondition(one, base)
        batch.add(
            BatchRequest(
                one, stop_condition, lambda answer, i=i: answers.update({i: answer}), pytest.fail
            )
        )
        for _ in range(3):
            batch.advance()
    while batch.busy:
        batch.advance()
    return [response_conv.deserialize_sample_response(answers[i]) for i in range(len(plans))]


def full_logprobs(base: LoadedBase, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = base.plain.causal_lm(input_ids=torch.tensor([tokens])).logits[0]
    return torch.log_softmax(logits, dim=-1)


def test_temperature_zero_gives_the_models_own_greedy_completion(base: LoadedBase) -> None:
    (answer,) = run(base, [make_plan(base.served, params={"temperature": 0.0, "max_tokens": 20})])

    expected = base.plain.causal_lm.generate(  # type: ignore[operator]
        torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    assert answer.sequences[0].tokens == expected[0, len(PROMPT) :].tolist()
    assert answer.sequences[0].stop_reason == "length"


def test_batching_changes_neither_tokens_nor_logprobs(base: LoadedBase) -> None:
    random = np.random.default_rng(0)
    plans = [
        make_plan(
            base.served,
            random.integers(3, 90, int(random.integers(1, 60))).tolist(),
            params={"max_tokens": int(random.integers(1, 60)), "seed": i},
            num_samples=int(random.integers(1, 4)),
        )
        for i in range(8)
    ]

    together = run(base, plans)
    alone = [run(base, [one])[0] for one in plans]

    for a, b in zip(together, alone, strict=True):
        for x, y in zip(a.sequences, b.sequences, strict=True):
            assert x.tokens == y.tokens
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=2e-5)


def test_logprobs_equal_those_of_a_full_forward_pass(base: LoadedBase) -> None:
    (answer,) = run(
        base,
        [make_plan(base.served, params={"temperature": 0.5, "top_k": 20, "seed": 1})],
    )

    sequence = answer.sequences[0]
    tokens = [*PROMPT, *sequence.tokens]
    expected = full_logprobs(base, tokens)[torch.arange(len(tokens) - 1), tokens[1:]]
    np.testing.assert_allclose(sequence.logprobs, expected[len(PROMPT) - 1 :], atol=2e-5)


def test_little_room_for_rows_or_tokens_only_slows_sampling(llama: LoadedBase) -> None:
    plans = [make_plan(llama.served, params={"seed": i}, num_samples=3) for i in range(4)]

    wide = run(llama, plans)
    for limits in ({"rows": 2}, {"tokens": 20}, {"tokens": 1}):
        narrow = run(llama, plans, **limits)
        for a, b in zip(wide, narrow, strict=True):
            assert [s.tokens for s in a.sequences] == [s.tokens for s in b.sequences]


def drawn(logits: list[float], count: int = 20_000, **params: Any) -> np.ndarray:
    """Return how often each token is drawn from LOGITS."""
    served = ServedModel("m", Path(), "LlamaForCausalLM", 128, len(logits), 0, "")
    one = make_plan(served, [0], params={"seed": 5, **params})
    logprobs = torch.log_softmax(torch.tensor(logits), -1)
    tokens = TokenSampler(one, 0).sample_many(logprobs, count)
    return np.bincount(tokens.numpy(), minlength=len(logits)) / count


LOGITS = [2.0, 0.0, 1.0, -1.0, 1.5]


def softmax(logits: list[float]) -> np.ndarray:
    weights = np.exp(np.array(logits) - max(logits))
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_samples_follow_the_distribution_at_a_temperature(temperature: float) -> None:
    frequencies = drawn(LOGITS, temperature=temperature)

    expected = softmax([value / temperature for value in LOGITS])
    np.testing.assert_allclose(frequencies, expected, atol=0.012)


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-40, 1e-30])
def test_a_very_small_temperature_samples_the_most_likely_token(
    llama: LoadedBase, temperature: float
) -> None:
    samplings = [{"temperature": 0.0}, {"temperature": temperature}]
    samplings += [{"temperature": temperature, "top_k": 3}]

    answers = run(llama, [make_plan(llama.served, params=params) for params in samplings])

    assert len({tuple(answer.sequences[0].tokens) for answer in answers}) == 1


def test_top_k_keeps_the_most_likely_tokens_and_their_proportions() -> None:
    frequencies = drawn(LOGITS, top_k=3)

    kept = softmax(LOGITS) * [1, 0, 1, 0, 1]
    np.testing.assert_allclose(frequencies, kept / kept.sum(), atol=0.012)


def test_top_p_keeps_the_smallest_set_that_reaches_the_probability() -> None:
    # In order of probability: 0.43, 0.26, 0.16, 0.06, 0.02; three of them pass 0.8.
    frequencies = drawn(LOGITS, top_p=0.8)

    kept = softmax(LOGITS) * [1, 0, 1, 0, 1]
    np.testing.assert_allclose(frequencies, kept / kept.sum(), atol=0.012)


def test_a_tiny_top_p_always_keeps_one_token() -> None:
    assert drawn(LOGITS, top_p=1e-9)[0] == 1


def test_the_same_seed_samples_the_same_tokens_and_another_seed_does_not(llama: LoadedBase) -> None:
    one = make_plan(llama.served, params={"seed": 1}, num_samples=3)
    other = make_plan(llama.served, params={"seed": 2}, num_samples=3)

    first, again, different = run(llama, [one, one, other])

    tokens = [[s.tokens for s in answer.sequences] for answer in (first, again, different)]
    assert tokens[0] == tokens[1] != tokens[2]
    assert len({tuple(sample) for sample in tokens[0]}) == 3


def test_a_request_without_a_seed_gets_one_when_it_is_accepted(llama: LoadedBase) -> None:
    kept = with_seed(request(), 77)

    assert plan(parse(kept), llama.served, seed=0).seed == 77
    assert plan(parse(with_seed(request(params={"seed": 5}), 77)), llama.served, 0).seed == 5


def always(base: LoadedBase, token: int, **params: Any) -> Any:
    """Sample from a model that says TOKEN whatever it is asked."""

    class Stubborn(MultiAdapterNetwork):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return (
                torch.nn.functional.one_hot(
                    torch.full(hidden.shape[:-1], token), base.served.vocabulary
                ).float()
                * 100
            )

    one = make_plan(base.served, params={"max_tokens": 6, **params})
    return run(base, [one], Stubborn(base.plain.causal_lm))[0].sequences[0]


def test_sampling_stops_at_the_models_end_token_by_default(llama: LoadedBase) -> None:
    by_itself = always(llama, 2, stop=None)
    never = always(llama, 2, stop=[])

    assert (by_itself.tokens, by_itself.stop_reason) == ([2], "stop")
    assert (never.tokens, never.stop_reason) == ([2] * 6, "length")


def test_sampling_stops_at_given_tokens_and_strings_and_keeps_them(llama: LoadedBase) -> None:
    assert always(llama, 9, stop=[8, 9]).tokens == [9]
    assert always(llama, 9, stop=[8]).stop_reason == "length"
    # Token 9 reads `w5`, so two of them read `w5 w5`.
    assert always(llama, 9, stop="w5 w5").tokens == [9, 9]
    assert always(llama, 9, stop=["nothing", "w5 w5 w5"]).tokens == [9, 9, 9]


def test_prompt_logprobs_score_the_prompt(base: LoadedBase) -> None:
    expected = full_logprobs(base, PROMPT)
    whole = make_plan(base.served, prompt_logprobs=True)
    part = make_plan(base.served, prompt_logprobs=True, prompt_logprobs_last_n=2)

    whole_answer, part_answer = run(base, [whole, part])

    own = [float(expected[i, PROMPT[i + 1]]) for i in range(3)]
    assert whole_answer.prompt_logprobs[0] is None
    np.testing.assert_allclose(whole_answer.prompt_logprobs[1:], own, atol=2e-5)
    assert part_answer.prompt_logprobs[:2] == [None, None]
    np.testing.assert_allclose(part_answer.prompt_logprobs[2:], own[1:], atol=2e-5)


def test_the_most_likely_tokens_are_reported_for_prompt_and_samples(base: LoadedBase) -> None:
    one = make_plan(
        base.served,
        prompt_logprobs=True,
        topk_prompt_logprobs=3,
        topk_sample_logprobs=2,
        params={"seed": 1, "max_tokens": 4},
    )

    (answer,) = run(base, [one])

    tokens = [*PROMPT, *answer.sequences[0].tokens]
    expected = full_logprobs(base, tokens)
    values, ids = expected[:3].topk(3)
    assert (answer.topk_prompt_logprobs_np.logprobs[0] == -99999.0).all()
    np.testing.assert_array_equal(answer.topk_prompt_logprobs_np.token_ids[1:], ids)
    np.testing.assert_allclose(answer.topk_prompt_logprobs_np.logprobs[1:], values, atol=2e-5)
    values, ids = expected[3:-1].topk(2)
    np.testing.assert_array_equal(answer.sequences[0].topk_logprobs_np.token_ids, ids)
    np.testing.assert_allclose(answer.sequences[0].topk_logprobs_np.logprobs, values, atol=2e-5)


def test_given_tokens_are_scored_at_the_prompts_position(llama: LoadedBase) -> None:
    expected = full_logprobs(llama, PROMPT)
    dense = {"data": [10, 11, 12, -1, 14, 15], "dtype": "int64", "shape": [3, 2]}
    sparse = {
        "data": [10, 14],
        "dtype": "int64",
        "shape": [3, 2],
        "sparse_crow_indices": [0, 1, 1, 2],
        "sparse_col_indices": [0, 1],
    }

    answers = run(
        llama, [make_plan(llama.served, target_prompt_logprobs=t) for t in (dense, sparse)]
    )

    scored = answers[0].target_prompt_logprobs.to_numpy()
    for i, row in enumerate([[10, 11], [12, None], [14, 15]]):
        for j, token in enumerate(row):
            wanted = 0.0 if token is None else float(expected[i, token])
            assert scored[i, j] == pytest.approx(wanted, abs=2e-5)
    few = answers[1].target_prompt_logprobs
    assert (few.sparse_crow_indices, few.sparse_col_indices) == ([0, 1, 1, 2], [0, 1])
    np.testing.assert_allclose(
        few.data, [float(expected[0, 10]), float(expected[2, 14])], atol=2e-5
    )


def test_alternative_tokens_are_reported_at_every_prompt_position(llama: LoadedBase) -> None:
    expected = full_logprobs(llama, PROMPT)
    (answer,) = run(llama, [make_plan(llama.served, prompt_alt_tokens_k=5)])

    tokens = answer.prompt_alt_tokens.tokens.to_numpy()
    logprobs = answer.prompt_alt_tokens.logprobs.to_numpy()
    assert tokens.shape == (3, 5)
    for i in range(3):
        np.testing.assert_allclose(logprobs[i], expected[i, tokens[i]], atol=2e-5)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": [5] * 120, "params": {"max_tokens": 10}}, "exceed the context"),
        ({"prompt": [5] * 129, "params": {"max_tokens": 1}}, "exceed the context"),
        ({"prompt": [96]}, "token id 96"),
        ({"prompt": [-1]}, "token id -1"),
        ({"params": {"max_tokens": 0}}, "max_tokens"),
        ({"params": {"temperature": -0.1}}, "temperature"),
        ({"params": {"top_p": 0.0}}, "top_p"),
        ({"params": {"top_p": 1.5}}, "top_p"),
        ({"params": {"top_k": 0}}, "top_k"),
        ({"params": {"stop": ["a", ""]}}, "stop string"),
        ({"params": {"stop": [500]}}, "stop token"),
        ({"num_samples": 0}, "num_samples"),
        ({"topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
        ({"prompt_logprobs_last_n": 2}, "needs `prompt_logprobs`"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 9}, "prompt_logprobs_last_n"),
        (
            {"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [1, 1]}},
            "one row per prompt token",
        ),
        (
            {"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [3, 1]}},
            "does not fill its shape",
        ),
        ({"record_stability_info": True}, "record_stability_info"),
    ],
)
def test_an_invalid_request_is_refused_immediately(
    llama: LoadedBase, fields: dict[str, Any], sentence: str
) -> None:
    prompt = fields.pop("prompt", None)

    with pytest.raises(Refused, match=sentence):
        make_plan(llama.served, prompt, **fields)


def test_a_full_context_can_be_scored(llama: LoadedBase) -> None:
    one = make_plan(llama.served, [5] * 128, prompt_logprobs=True, params={"max_tokens": 1})

    (answer,) = run(llama, [one])

    assert len(answer.prompt_logprobs) == 128
    assert isinstance(SampleRequest.model_validate_json(request()), SampleRequest)
