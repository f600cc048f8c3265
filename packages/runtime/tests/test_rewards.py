"""What answers are worth, and which rewards are refused before a job exists."""

from collections.abc import Callable
from typing import Any

import pytest
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.combinations import RECIPES, build, load_reward
from dreadnode_runtime.rewards.recipes import Completion, Score, score_completion

CONTAINS = {"name": "contains_v1", "params": {"needle": "yes"}}
ROW = {"name": "row_reward_v1"}
EXACT = {"name": "exact_match_v1"}

Judge = Callable[..., Any]


def asked(expected: str | None = None, paid: float | None = None) -> Prompt:
    return Prompt(Conversation([]), 7, expected, paid)


async def worth(name: str, text: str, prompt: Prompt, tokens: int = 1, **params: Any) -> Score:
    return await build({"name": name, "params": params}).score(Completion(prompt, text, tokens))


@pytest.mark.parametrize(
    ("name", "text", "prompt", "params", "value"),
    [
        ("row_reward_v1", "any", asked(paid=0.3), {}, 0.3),
        ("row_reward_v1", "any", asked(), {"default": -1}, -1.0),
        ("contains_v1", "oh yes.", asked(), {"needle": "yes"}, 1.0),
        ("contains_v1", "oh Yes.", asked(), {"needle": "yes"}, 0.0),
        ("contains_v1", "no", asked(), {"needle": "yes", "reward_if_false": "-0.5"}, -0.5),
        ("exact_match_v1", " Paris\n", asked("Paris"), {}, 1.0),
        ("exact_match_v1", "paris", asked("Paris"), {}, 0.0),
        ("exact_match_v1", "0", asked("1"), {"expected": 0}, 1.0),
        ("trajectory_imitation_v1", "ls -l", asked("ls -l", 0.7), {}, 0.7),
        ("trajectory_imitation_v1", "ls -l", asked("ls -l", 0.0), {}, 0.0),
        ("trajectory_imitation_v1", "ls -l", asked("ls -l"), {"reward_if_true": 2}, 2.0),
        ("trajectory_imitation_v1", "ls", asked("ls -l", 0.7), {"reward_if_false": -1}, -1.0),
        ("gsm8k_v1", "so 3 + 4 = 7\n#### 7", asked("... #### 7"), {}, 1.0),
        ("gsm8k_v1", "it is 1,234.50", asked("#### 1234.5"), {}, 1.0),
        ("gsm8k_v1", "#### 7, or rather 8", asked("7"), {}, 1.0),
        ("gsm8k_v1", "12\n#### nothing", asked("12"), {}, 1.0),
        ("gsm8k_v1", "-5", asked("5"), {}, 0.0),
        ("gsm8k_v1", "7.0000001", asked("7"), {}, 0.0),
        ("gsm8k_v1", "9" * 400, asked("7"), {}, 0.0),
        ("gsm8k_v1", "7", asked(), {"expected": "7", "reward_if_true": 3}, 3.0),
    ],
)
async def test_each_recipe_rewards_what_its_description_says(
    name: str, text: str, prompt: Prompt, params: dict[str, Any], value: float
) -> None:
    assert (await worth(name, text, prompt, **params)).value == value


async def test_a_completion_without_a_number_is_wrong_and_reported_as_such() -> None:
    assert await worth("gsm8k_v1", "I do not know", asked("7")) == Score(
        0.0, extraction_failed=True
    )


async def test_a_weighted_sum_adds_its_weighted_rewards() -> None:
    terms = [{"weight": 0.5, "reward": CONTAINS}, {"weight": -2, "reward": EXACT}]

    assert (await worth("weighted_sum_v1", "yes", asked("yes"), terms=terms)).value == -1.5
    assert (await worth("weighted_sum_v1", "oh yes", asked("yes"), terms=terms)).value == 0.5


@pytest.mark.parametrize("weight", [1e10, -1e10, 1e308])
async def test_a_reward_too_large_to_train_on_ends_the_job_and_names_the_row(
    weight: float,
) -> None:
    terms = [{"weight": weight, "reward": ROW}, {"weight": weight, "reward": CONTAINS}]
    recipe = build({"name": "weighted_sum_v1", "params": {"terms": terms}})

    with pytest.raises(JobFailed, match=r"must be between -1e\+09"):
        await score_completion(recipe, Completion(asked(paid=9.0), "yes"))


async def test_a_gate_rewards_only_completions_that_pass_it() -> None:
    params = {"gate": ROW, "reward": CONTAINS, "threshold": 0.5, "otherwise": -3}

    assert (await worth("gate_v1", "yes", asked(paid=0.6), **params)).value == 1.0
    assert (await worth("gate_v1", "yes", asked(paid=0.5), **params)).value == -3.0


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 1.0), (10, 1.0), (15, 0.75), (20, 0.5), (99, 0.5)]
)
async def test_length_is_penalized_linearly_between_its_two_limits(
    tokens: int, value: float
) -> None:
    params = {"reward": CONTAINS, "free_tokens": 10, "max_tokens": 20, "penalty": 0.5}

    assert (await worth("length_shaped_v1", "yes", asked(), tokens, **params)).value == value


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (
            {"name": "exact_mach_v1"},
            "unknown reward recipe `exact_mach_v1`; did you mean `exact_match",
        ),
        (
            {"name": "zzz"},
            "unknown reward recipe `zzz`; the recipes are row_reward_v1, contains_v1",
        ),
        ({"name": "contains_v1"}, "`contains_v1` needs `needle` in its `params`"),
        ({"name": "contains_v1", "params": {"needle": ""}}, "the parameter `needle` of"),
        ({**EXACT, "params": {"needle": "x"}}, "unknown parameter `needle` of `exact_match_v1`"),
        ({**EXACT, "parms": {}}, "unknown key `parms`; a reward has `name` and `params`"),
        ({**CONTAINS, "params": {"needle": "x", "reward_if_true": "nan"}}, "`reward_if_true`"),
        ({"name": "task_verifier_v1"}, "`task_verifier_v1` needs the hosted service's tasks; use"),
        ({"name": "task_env_agent_v1"}, "use an `environment` with tools"),
        ({"name": "weighted_sum_v1", "params": {"terms": []}}, "the parameter `terms` of"),
        (
            {"name": "gate_v1", "params": {"gate": {"name": "contains_v1"}, "reward": EXACT}},
            "`contains_v1` needs `needle`",
        ),
        (
            {
                "name": "length_shaped_v1",
                "params": {"reward": EXACT, "free_tokens": 9, "max_tokens": 9},
            },
            "`free_tokens` must be below `max_tokens`",
        ),
        (
            {"name": "python_v1", "params": {"source": "def reward(a, r): return 1"}},
            "this server does not run custom code; use a built-in recipe, or ask its admin",
        ),
    ],
)
def test_an_invalid_reward_is_refused_in_a_sentence(recipe: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobFailed) as refused:
        load_reward(recipe)

    assert sentence in str(refused.value)
    assert "[" not in str(refused.value)


def test_too_deeply_nested_recipes_are_refused() -> None:
    recipe = CONTAINS
    for _ in range(9):
        recipe = {"name": "gate_v1", "params": {"gate": recipe, "reward": EXACT}}

    with pytest.raises(JobFailed, match="nested more than 8 deep"):
        load_reward(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        ROW,
        {"name": "contains_v1", "params": {"needle": "x", "reward_if_true": 0}},
        {"name": "weighted_sum_v1", "params": {"terms": [{"weight": 0, "reward": CONTAINS}]}},
        {"name": "gate_v1", "params": {"gate": ROW, "reward": ROW}},
    ],
)
def test_a_reward_that_is_the_same_for_every_completion_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(JobFailed, match="gives all completions of a prompt the same reward"):
        load_reward(recipe)


@pytest.mark.parametrize("name", ["exact_match_v1", "trajectory_imitation_v1", "gsm8k_v1"])
@pytest.mark.parametrize("expected", [None, "", "\n"])
def test_a_row_without_an_expected_answer_cannot_be_scored_by_comparison(
    name: str, expected: str | None
) -> None:
    with pytest.raises(Unusable, match="no expected answer"):
        build({"name": name}).check(asked(expected))


def test_an_expected_answer_without_a_number_cannot_be_compared_as_a_number() -> None:
    with pytest.raises(Unusable, match="is not a single number"):
        build({"name": "gsm8k_v1"}).check(asked("seven"))


def test_every_recipe_is_found_by_its_name() -> None:
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert len(RECIPES) == 10


@pytest.mark.parametrize(
    ("recipe", "reward"),
    [
        ({"name": "contains_v1", "params": {"needle": "a", "reward_if_false": -1}}, -1.0),
        (EXACT, 0.0),
        ({"name": "row_reward_v1", "params": {"default": 0.5}}, 0.5),
        ({"name": "gate_v1", "params": {"gate": CONTAINS, "reward": ROW, "otherwise": -2}}, -2.0),
        (
            {"name": "weighted_sum_v1", "params": {"terms": [{"weight": 2, "reward": CONTAINS}]}},
            0.0,
        ),
        (
            {
                "name": "length_shaped_v1",
                "params": {"reward": EXACT, "free_tokens": 0, "max_tokens": 10},
            },
            -1.0,
        ),
    ],
)
async def test_a_completion_with_unfinished_reasoning_is_not_scored(
    recipe: Any, reward: float
) -> None:
    # It holds what the recipe looks for, and still gets the reward of a wrong completion.
    completion = Completion(asked("yes a"), "yes a", tokens=10, truncated=True, unfinished=True)

    score = await score_completion(build(recipe), completion)

    assert (score.value, score.extraction_failed) == (reward, recipe["name"] != "row_reward_v1")
