"""Suggestions: the documented ones, and the promises about what never stands above what."""

import pytest
from dreadnode.training import TINKER_MODELS, suggest_training_models
from hypothesis import given
from hypothesis import strategies as st


def ids(name: str, limit: int = 3) -> list[str]:
    return [model.tinker_id for model in suggest_training_models(name, limit=limit)]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        (
            "meta-llama/Llama-3.1-8B-Instruc",
            "meta-llama/Llama-3.1-8B-Instruct",
            "meta-llama/Llama-3.1-8B",
        ),
        ("Qwen/Qwen3-8", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"),
    ],
)
def test_the_documented_misspellings_give_the_documented_suggestions(
    name: str, first: str, second: str
) -> None:
    assert ids(name, limit=2) == [first, second]


def test_the_documented_call_suggests_llamas() -> None:
    found = suggest_training_models("llama3", limit=3)

    assert len(found) == 3
    assert {model.family for model in found} == {"llama"}


@pytest.mark.parametrize("model", TINKER_MODELS, ids=lambda model: model.tinker_id)
def test_an_exact_id_is_its_own_first_suggestion(model) -> None:
    assert ids(model.tinker_id)[0] == model.tinker_id


@pytest.mark.parametrize("limit", [-1, 0])
def test_a_limit_of_zero_gives_no_suggestion(limit: int) -> None:
    assert ids("Qwen/Qwen3-8", limit=limit) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("llama3_1@llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-3.3-70b-instruct@001", "meta-llama/Llama-3.3-70B-Instruct"),
        (
            "arn:aws:bedrock:us-east-1:1234:inference-profile/us.meta.llama3-3-70b-instruct-v1:0",
            "meta-llama/Llama-3.3-70B-Instruct",
        ),
        (
            "azureml://registries/azureml-meta/models/Meta-Llama-3.1-8B-Instruct/versions/4",
            "meta-llama/Llama-3.1-8B-Instruct",
        ),
        (
            "https://huggingface.co/bartowski/Qwen_Qwen3-8B-GGUF/blob/main/Qwen_Qwen3-8B-Q6_K.gguf",
            "Qwen/Qwen3-8B",
        ),
    ],
)
def test_model_addresses_of_other_hosts_are_understood(name: str, meant: str) -> None:
    assert ids(name)[0] == meant


def test_a_family_is_not_recognized_by_a_prefix() -> None:
    assert ids("mistral-nemo") == []


@pytest.mark.parametrize("name", ["", " ", "/", ":", "\x00", "8B", "🦙", "x" * 100_000, "b" * 200])
def test_a_name_without_meaning_gets_no_suggestion(name: str) -> None:
    assert ids(name) == []


@given(st.text(max_size=220))
def test_any_input_gives_a_short_list_of_models(name: str) -> None:
    found = suggest_training_models(name, limit=2)

    assert len(found) <= 2
    assert len({model.tinker_id for model in found}) == len(found)


@given(
    st.lists(
        st.sampled_from(
            [
                "llama",
                "qwen",
                "3",
                "3.1",
                "8b",
                "a3b",
                "-",
                ":",
                "/",
                "base",
                "vl",
                "q4_k_m",
                ".",
                "²",
            ]
        ),
        max_size=30,
    )
)
def test_fragments_of_names_in_any_order_do_not_fail(parts: list[str]) -> None:
    assert len(suggest_training_models("".join(parts))) <= 3
