"""What goes with an adapter: its card, and what the training came to."""

from pathlib import Path
from typing import Any

import pytest
from dreadnode.training import TINKER_MODELS
from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.jobs.cost import Cost, list_cost
from dreadnode_runtime.jobs.model_card import Card

MODEL = next(m for m in TINKER_MODELS if m.tinker_id == "Qwen/Qwen3-8B")


def card(**changes: Any) -> str:
    values: dict[str, Any] = {
        "job_id": "job-1",
        "name": None,
        "trainer_type": "rl",
        "model": MODEL.tinker_id,
        "trained_model": MODEL.tinker_id,
        "rehearsal": False,
        "renderer": "qwen3",
        "datasets": [Dataset("sums@1.0.0", Path(), "aa"), Dataset("talks@2.0.0", Path(), "bb")],
        "eval_dataset": Dataset("exam@1.0.0", Path(), "cc", "validation"),
        "counts": Counts(rows=10, usable=9),
        "config": {"lora_rank": 4},
        "metrics": {
            "train/steps": 3,
            "train/num_rollouts": 96,
            "train/reward": [0.1, 0.5, 0.4],
            "train/kl_sampler_trainer": [0.001, None, 0.002],
            "eval/reward_history": [0.2, 0.6, 0.3],
            "tokens/prompt": 1_000_000,
            "tokens/sampled": 2_000_000,
            "tokens/trained": 3_000_000,
        },
    }
    return Card(**{**values, **changes}).text()


def test_a_card_names_every_dataset_by_digest_and_the_results_with_the_best() -> None:
    text = card()

    for line in (
        "| Data | sums@1.0.0, sha256 aa |",
        "| Data 2 | talks@2.0.0, sha256 bb |",
        "| Evaluation data | exam@1.0.0, split validation, sha256 cc |",
        "| Rollouts | 96 |",
        "| Reward | 0.1000 first, 0.4000 last |",
        "| Evaluation reward | 0.2000 first, 0.3000 last, 0.6000 best |",
        "| KL of sampler and trainer | 0.0010 first, 0.0020 last |",
    ):
        assert line in text.splitlines()


def test_a_card_shows_the_cost_per_kind_of_token() -> None:
    pricing = MODEL.pricing
    assert pricing is not None
    assert pricing.prefill
    assert pricing.sample
    assert pricing.train

    text = card()

    dollars = pricing.prefill + 2 * pricing.sample + 3 * pricing.train
    assert (
        f"| Cost of the steps at hosted Tinker's list prices | ${dollars:.4f} "
        f"(1,000,000 prefill at ${pricing.prefill:g} per million, "
        f"2,000,000 sample at ${pricing.sample:g} per million, "
        f"3,000,000 train at ${pricing.train:g} per million; rates of {MODEL.pricing_as_of}) |"
    ) in text


def test_a_rehearsals_card_has_no_cost() -> None:
    assert "Cost" not in card(rehearsal=True, trained_model="stand-in/tiny")


def test_a_sum_with_an_unknown_price_is_unknown() -> None:
    cost = Cost({"prefill": 10, "train": 20}, {"prefill": 1.0, "train": None})

    assert cost.dollars is None
    assert cost.text() == "unknown (10 prefill at $1 per million, 20 train at an unknown rate)"


@pytest.mark.parametrize(
    ("metrics", "tokens"),
    [
        ({"train/num_tokens_processed": 7}, {"train": 7}),
        ({"tokens/prompt": 1, "tokens/sampled": 2, "tokens/trained": 3},
         {"prefill": 1, "sample": 2, "train": 3}),
    ],
)  # fmt: skip
def test_both_kinds_of_training_have_their_tokens_counted(
    metrics: dict[str, int], tokens: dict[str, int]
) -> None:
    cost = list_cost(MODEL.tinker_id, metrics)

    assert cost is not None
    assert cost.tokens == tokens
    assert list_cost(MODEL.tinker_id, {}) is None
