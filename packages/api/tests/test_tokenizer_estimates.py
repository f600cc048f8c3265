"""Estimates of token counts by another tokenizer, and their stated error."""

import pytest
from app.training.catalog import get_training_model
from dreadnode_api.pricing.estimate import estimate
from dreadnode_api.pricing.rates import rates_of
from dreadnode_api.pricing.tokenizers import (
    MEASURED,
    OTHER,
    STAND_IN,
    TEXTS,
    conversion,
    tokenizer_of,
)

MODEL = get_training_model("Qwen/Qwen3-8B")
PLAN = {"at_least": {"train": 1_000_000}, "at_most": {"train": 1_000_000}}


@pytest.mark.parametrize("counted", [STAND_IN, *MEASURED])
@pytest.mark.parametrize("wanted", MEASURED)
def test_every_measured_text_lies_within_the_stated_error(counted: str, wanted: str) -> None:
    columns = (STAND_IN, *MEASURED)
    for text, (characters, *counts) in TEXTS.items():
        before, after = counts[columns.index(counted)], counts[columns.index(wanted)]

        found = conversion(counted, wanted, characters / before)

        assert abs(before * found.ratio / after - 1) <= found.error + 1e-9, text


def test_a_tokenizer_that_was_not_measured_has_a_larger_error() -> None:
    for wanted in MEASURED:
        known, unknown = (conversion(STAND_IN, kind, 3.7) for kind in (wanted, OTHER))

        assert unknown.error > known.error


def test_tokenizers_are_known_by_the_id_in_the_catalog() -> None:
    assert tokenizer_of("Qwen/Qwen3-32B") == "qwen3"
    assert tokenizer_of("Qwen/Qwen3.5-27B") == OTHER
    assert tokenizer_of("openai/gpt-oss-20b") == "o200k"
    assert tokenizer_of(None) == OTHER


def test_an_estimate_of_another_tokenizer_is_a_range_with_its_error() -> None:
    assert MODEL is not None
    rates = rates_of(MODEL)

    own = estimate(PLAN, rates)
    other = estimate(PLAN, rates, counted=STAND_IN, wanted="qwen3", characters_per_token=3.7)
    unknown = estimate(PLAN, rates, counted=OTHER, wanted=OTHER, characters_per_token=3.7)

    assert own.is_exact
    assert not other.is_exact
    assert other.at_least.train < other.at_most.train < 1_200_000
    assert other.tokenizer.explanation is not None
    assert "`stand-in`" in other.tokenizer.explanation
    assert not unknown.is_exact
