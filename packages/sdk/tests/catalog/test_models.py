"""The catalog's facts, and looking one up."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from dreadnode.catalog.source import render_table, replace_table
from dreadnode.training import (
    ALGORITHMS,
    CATALOG_AS_OF,
    TINKER_MODELS,
    TrainingModel,
    get_training_model,
)
from dreadnode.training import models as catalog

EXTENDED = [model for model in TINKER_MODELS if model.extended is not None]
DATE = re.compile(r"20\d\d-\d\d(-\d\d)?")


def test_the_catalog_contains_every_model_that_tinker_serves_or_has_served() -> None:
    assert len(TINKER_MODELS) == 45
    assert sum(model.status == "active" for model in TINKER_MODELS) == 24


def test_catalog_ids_are_unique() -> None:
    ids = [model.tinker_id for model in TINKER_MODELS]
    ids += [model.extended.tinker_id for model in EXTENDED if model.extended]

    assert len(ids) == len(set(ids))


def test_an_entry_is_found_by_its_exact_id_only() -> None:
    model = get_training_model("meta-llama/Llama-3.1-8B-Instruct")

    assert model is not None
    assert (model.family, model.type, model.size_b) == ("llama", "dense", 8.03)
    assert get_training_model("meta-llama/llama-3.1-8b-instruct") is None
    assert get_training_model("") is None


@pytest.mark.parametrize("base", EXTENDED, ids=lambda model: model.tinker_id)
def test_an_extended_id_gives_the_entry_with_the_variants_price_and_context(
    base: TrainingModel,
) -> None:
    assert base.extended is not None
    variant = get_training_model(base.extended.tinker_id)

    assert variant is not None
    assert variant.tinker_id == base.extended.tinker_id
    assert variant.context_length == base.extended.context_length > base.context_length
    assert variant.pricing == base.extended.pricing
    assert variant.family == base.family
    assert not variant.extended_context


def test_an_entry_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        TINKER_MODELS[0].size_b = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("model", TINKER_MODELS, ids=lambda model: model.tinker_id)
def test_each_entry_is_consistent_in_itself(model: TrainingModel) -> None:
    assert model.size_b >= 0.1
    assert model.context_length % 1024 == 0
    assert (model.type == "dense") == (model.size_b == model.total_size_b)
    assert model.extended_context == (model.extended is not None)
    assert set(model.supported_algorithms) <= set(ALGORITHMS)
    assert (model.status == "retired") == (model.retired_on is not None)
    assert model.replacement is None or get_training_model(model.replacement) is not None
    assert model.tinker_id.startswith(f"{model.organization}/")
    assert (model.pricing is None) == (model.pricing_as_of is None)
    assert (model.list_pricing is None) == (model.promo is None)


@pytest.mark.parametrize("model", TINKER_MODELS, ids=lambda model: model.tinker_id)
def test_prices_are_positive_and_a_price_object_has_at_least_one_price(
    model: TrainingModel,
) -> None:
    variant = model.extended.pricing if model.extended else None
    for pricing in (model.pricing, model.list_pricing, variant):
        if pricing is not None:
            known = [
                rate
                for rate in (
                    pricing.prefill,
                    pricing.cached_prefill,
                    pricing.sample,
                    pricing.train,
                )
                if rate is not None
            ]
            assert known
            assert min(known) > 0


@pytest.mark.parametrize("model", TINKER_MODELS, ids=lambda model: model.tinker_id)
def test_every_date_is_an_iso_day_or_month_up_to_the_catalogs_own(
    model: TrainingModel,
) -> None:
    dates = [model.pricing_as_of, model.retired_on, model.first_seen, model.last_confirmed]

    for date in filter(None, dates):
        assert DATE.fullmatch(date)
        assert date <= CATALOG_AS_OF


def test_active_models_come_before_retired_ones() -> None:
    statuses = [model.status for model in TINKER_MODELS]

    assert statuses == sorted(statuses)


def test_the_table_is_formatted_like_a_refresh_writes_it() -> None:
    source = Path(catalog.__file__).read_text(encoding="utf-8")

    assert render_table(TINKER_MODELS) in source
    assert replace_table(source, TINKER_MODELS, CATALOG_AS_OF) == source


def test_looking_up_a_model_imports_no_heavy_module() -> None:
    probe = (
        "import sys; from dreadnode.training import get_training_model;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"pydantic", "rapidfuzz", "httpx2", "rich", "cyclopts", "yaml"} & set(loaded)
