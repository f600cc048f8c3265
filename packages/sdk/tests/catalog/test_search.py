"""Search: what each filter keeps, how matches are ordered, and what is refused."""

import math

import pytest
from dreadnode.catalog.search import RATES, SORT_KEYS
from dreadnode.catalog.view import EXPANSIONS, entry, expansions, page
from dreadnode.training import (
    TINKER_MODELS,
    CatalogQueryError,
    TrainingModel,
    search_training_models,
)

DOCUMENTED = {
    "tinker_id",
    "display_name",
    "family",
    "type",
    "size_b",
    "context_length",
    "extended_context",
    "supported_algorithms",
    "pricing",
}


def price(model: TrainingModel, rate: str) -> float | None:
    return getattr(model.pricing, rate) if model.pricing else None


def test_a_search_without_filters_gives_the_first_twenty_and_the_total() -> None:
    result = search_training_models()

    assert len(result) == 20
    assert result.total == len(TINKER_MODELS)
    assert [model.status for model in result] == ["active"] * 20


def test_retired_models_follow_the_active_ones() -> None:
    result = search_training_models(limit=100)

    assert [model.tinker_id for model in result] == [model.tinker_id for model in TINKER_MODELS]


def test_every_word_of_a_query_must_occur_in_any_case_and_order() -> None:
    found = search_training_models("8B llama INSTRUCT")

    assert [model.tinker_id for model in found] == ["meta-llama/Llama-3.1-8B-Instruct"]
    assert search_training_models("llama 9b").total == 0


def test_a_blank_query_matches_everything() -> None:
    assert search_training_models("  ").total == len(TINKER_MODELS)


def test_an_unknown_family_gives_an_empty_result() -> None:
    assert search_training_models(family="mistral").total == 0
    assert search_training_models(family="LLAMA").total == 6


def test_size_limits_are_inclusive_and_count_active_parameters() -> None:
    found = search_training_models(min_size_b=3, max_size_b=8.03, limit=100)

    sizes = {model.size_b for model in found}
    assert min(sizes) == 3.0
    assert max(sizes) == 8.03
    assert all(3 <= size <= 8.03 for size in sizes)


@pytest.mark.parametrize("rate", RATES)
def test_an_unknown_price_exceeds_every_limit(rate: str) -> None:
    found = search_training_models(limit=100, **{f"max_{rate}": 1e9})

    known = [model for model in TINKER_MODELS if price(model, rate) is not None]
    assert list(found) == known


def test_filters_can_be_combined() -> None:
    found = search_training_models(
        type="moe", status="active", vision=True, min_context=65536, max_train=2.0
    )

    assert found.total == 2
    assert all(
        model.type == "moe" and model.vision is True and price(model, "train") <= 2.0
        for model in found
    )


def test_models_of_unknown_vision_match_neither_yes_nor_no() -> None:
    seeing = search_training_models(vision=True).total
    blind = search_training_models(vision=False).total

    assert seeing + blind == sum(model.vision is not None for model in TINKER_MODELS)
    assert seeing + blind < len(TINKER_MODELS)


@pytest.mark.parametrize("key", SORT_KEYS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_sorting_puts_unknown_values_last_in_both_directions(key: str, sign: str) -> None:
    found = search_training_models(sort=f"{sign}{key}", limit=100)

    values = [price(model, key) if key in RATES else getattr(model, key) for model in found]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    assert known == sorted(known, reverse=bool(sign))


def test_paging_by_offset_gives_every_match_once() -> None:
    pages = [search_training_models(limit=7, offset=offset) for offset in range(0, 49, 7)]

    walked = [model.tinker_id for found in pages for model in found]
    assert walked == [model.tinker_id for model in TINKER_MODELS]


def test_facets_count_all_matches_and_not_only_the_page() -> None:
    found = search_training_models(family="qwen", limit=1)

    assert found.facets["status"] == {"retired": 12, "active": 8}
    assert found.facets["family"] == {"qwen": 20}
    assert found.facets["algorithm"]["sft"] == 20


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("limit", {"limit": 0}),
        ("limit", {"limit": 101}),
        ("offset", {"offset": -1}),
        ("min_size_b", {"min_size_b": -1}),
        ("max_size_b", {"max_size_b": -0.5}),
        ("min_size_b", {"min_size_b": 70, "max_size_b": 8}),
        ("min_size_b", {"min_size_b": math.nan}),
        ("max_size_b", {"max_size_b": math.inf}),
        ("max_train", {"max_train": -1}),
        ("min_context", {"min_context": 0}),
        ("algorithm", {"algorithm": "grpo"}),
        ("type", {"type": "sparse"}),
        ("status", {"status": "gone"}),
        ("sort", {"sort": "name"}),
        ("sort", {"sort": "--size_b"}),
        ("query", {"query": "x" * 201}),
        ("query", {"query": "qwen\x00"}),
        ("query", {"query": "qwen\ud800"}),
        ("family", {"family": "qwen\n"}),
    ],
)
def test_an_invalid_search_is_refused_with_its_field(
    field: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(CatalogQueryError) as caught:
        search_training_models(**arguments)  # type: ignore[arg-type]

    assert caught.value.field == field
    assert f"`{field}`" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not set("[]") & set(str(caught.value))


def test_the_default_view_has_exactly_the_documented_fields() -> None:
    answer = page(search_training_models(limit=100))

    assert set(answer) == {"models", "total", "limit"}
    assert all(set(model) == DOCUMENTED for model in answer["models"])
    prices = [model["pricing"] for model in answer["models"] if model["pricing"]]
    assert all(set(pricing) == {"prefill", "sample", "train"} for pricing in prices)


@pytest.mark.parametrize("name", EXPANSIONS)
def test_an_expansion_only_adds_fields(name: str) -> None:
    for model in TINKER_MODELS:
        plain, more = entry(model), entry(model, {name})

        assert set(plain) <= set(more)
        assert {key: more[key] for key in plain if key != "pricing"} == {
            key: plain[key] for key in plain if key != "pricing"
        }


def test_all_expansions_together_show_every_field_of_an_entry() -> None:
    shown = set(entry(TINKER_MODELS[0], expansions("all")))

    assert set(TrainingModel.__dataclass_fields__) <= shown


def test_an_unknown_expansion_is_refused() -> None:
    with pytest.raises(CatalogQueryError, match="`expand` must hold only"):
        expansions("details,colour")
