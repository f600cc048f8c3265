"""What goes with an adapter: its card, and what the training came to."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dreadnode_runtime.backend.usage import TokenMeter
from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.jobs.cost import Ledger
from dreadnode_runtime.jobs.model_card import Card
from dreadnode_runtime.jobs.outcome import Results

MODEL = "Qwen/Qwen3-8B"


METRICS = {
    "train/steps": 3,
    "train/num_rollouts": 96,
    "train/reward": [0.1, 0.5, 0.4],
    "train/kl_sampler_trainer": [0.001, None, 0.002],
    "eval/reward_history": [0.2, 0.6, 0.3],
}


def card(*, cost: Ledger | None = None, notes: Sequence[str] = (), **record: Any) -> str:
    job = {"id": "job-1", "trainer_type": "rl", "model": MODEL, "config": {"lora_rank": 4}}
    results = Results(
        steps=3,
        metrics=METRICS,
        last_step_metrics={},
        best_step=None,
        artifacts={},
        datasets=[Dataset("sums@1.0.0", Path(), "aa"), Dataset("talks@2.0.0", Path(), "bb")],
        eval_dataset=Dataset("exam@1.0.0", Path(), "cc", "validation"),
        counts=Counts(rows=10, usable=9),
    )
    rendering: Any = SimpleNamespace(name="qwen3", source="a chat template", notes=[])
    made = Card(
        Job.from_record({**job, **record}),
        rendering,
        results,
        cost or Ledger({}),
        adapter_notes=notes,
    )
    return made.text()


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


def test_a_card_shows_what_the_check_warned_of() -> None:
    warned = {"preflight": {"warnings": [{"code": "few_rows", "message": "There are 3 rows."}]}}

    text = card(**warned)

    assert "## Warnings before the start\n\n- There are 3 rows.\n" in text
    assert "## Warnings" not in card()


def test_a_card_names_what_peft_ignores_and_the_name_of_the_base_models_weights() -> None:
    text = card(trained_model="Qwen/Qwen3-8B:peft:131072", notes=["PEFT ignores a layer"])

    assert "base_model: Qwen/Qwen3-8B\n" in text
    assert "## Adapter\n\n- PEFT ignores a layer\n" in text


RATES = {"prefill": "0.2", "cached_prefill": None, "sample": "0.4", "train": "0.44"}


def ledger(rates: dict[str, str | None] | None = None, **tokens: int) -> Ledger:
    cost = {"rates": {**RATES, "as_of": "2026-09", **(rates or {})}, "tokens": tokens}
    return Ledger.from_record({"cost": cost}, TokenMeter())


def test_a_card_shows_the_cost_per_kind_of_token() -> None:
    text = card(cost=ledger(prefill=1_000_000, sample=2_000_000, train=3_000_000))

    assert (
        "| Cost at hosted Tinker's prices | $2.3200 (1,000,000 prefill at $0.2 per million, "
        "2,000,000 sample at $0.4 per million, 3,000,000 train at $0.44 per million; rates of "
        "2026-09) |"
    ) in text


def test_a_rehearsals_card_shows_what_a_real_job_would_cost() -> None:
    text = card(rehearsal=True, trained_model="stand-in/tiny", cost=ledger(train=1_000_000))

    assert "| Cost at hosted Tinker's prices of a job with these tokens | $0.4400" in text
    assert "| Cost at hosted Tinker's prices |" not in text


def test_a_sum_with_an_unknown_price_is_unknown() -> None:
    unknown = ledger(cached_prefill=20, train=10)

    assert unknown.usd is None
    assert unknown.text() == (
        "unknown (20 cached_prefill at an unknown rate, 10 train at $0.44 per million; "
        "rates of 2026-09)"
    )


def test_tokens_beyond_2_to_the_53_are_priced_to_the_last_digit() -> None:
    assert ledger(train=2**53 + 1).usd == Decimal("3963167672.086036920")
