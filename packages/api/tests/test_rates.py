"""The rates of catalog models, and exact sums of money."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from app.training.catalog import TINKER_MODELS, TrainingModelPricing, as_extended
from dreadnode_api.errors import Conflict
from dreadnode_api.pricing.rates import KINDS, Rates, TokenCounts, cost, rates_of
from inline_snapshot import snapshot

PRICED = next(model for model in TINKER_MODELS if model.promo and model.extended)


def test_every_catalog_model_has_exact_rates_or_none() -> None:
    for model in TINKER_MODELS:
        for terms in filter(None, (model, as_extended(model))):
            rates = rates_of(terms)

            assert rates.model == terms.tinker_id
            assert Rates.from_json(rates.to_json()) == rates
            for kind in KINDS:
                published = getattr(terms.pricing, kind, None)
                assert rates.of(kind) == (None if published is None else Decimal(str(published)))


def test_rates_say_their_date_and_promotion() -> None:
    assert rates_of(PRICED).to_json() == snapshot(
        {
            "model": "thinkingmachines/Inkling",
            "prefill": "1.87",
            "cached_prefill": "0.374",
            "sample": "4.68",
            "train": "5.61",
            "as_of": "2026-10-07",
            "promotion": "50 % off for a limited time, which can end without notice",
            "list_rates": {"prefill": "3.74", "sample": "9.36", "train": "11.22"},
        }
    )


@pytest.mark.parametrize("count", [0, 1, 999_999, 2**53 + 1, 10**24 + 7])
def test_a_cost_is_exact_also_beyond_what_a_float_holds(count: int) -> None:
    tokens = TokenCounts(prefill=count, cached_prefill=count, sample=count, train=count)
    rates = rates_of(PRICED)

    found = cost(tokens, rates)

    exact = sum(Fraction(rates.of(kind) or 0) * count for kind in KINDS) / 1_000_000
    assert found.total is not None
    assert Fraction(found.total) == exact


def test_an_unknown_rate_gives_no_total_and_the_reason() -> None:
    rates = Rates("some/model", prefill=Decimal("0.1"))

    assert cost(TokenCounts(prefill=5), rates).total == Decimal("0.0000005")
    found = cost(TokenCounts(prefill=5, sample=1, train=1), rates)
    assert found.total is None
    assert found.by_kind["sample"] is None
    assert found.reason == snapshot(
        "The catalog has no published rates of some/model for `sample` and `train` tokens"
    )


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(Conflict, match="is not a price; correct the catalog"):
        rates_of(replace(PRICED, pricing=TrainingModelPricing(train=rate)))


@pytest.mark.parametrize("count", [-1, 1.0, True])
def test_what_is_not_a_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="must be an integer from 0"):
        TokenCounts(train=count)
