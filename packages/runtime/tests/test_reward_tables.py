"""Each recipe gives the rewards in its table, `reward_tables/RECIPE.json`.

An entry has a `completion` and its `reward`, and where the recipe needs them `expected` (the row's
answer), `row_reward` (the row's own reward) and `params` (the recipe's parameters).
"""

import json
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.rewards import math_answers
from dreadnode_runtime.rewards.combinations import build
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score, score_completion

TABLES = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in Path(__file__).parent.glob("reward_tables/*.json")
}


def prompt_of(entry: dict[str, Any]) -> Prompt:
    return Prompt(Conversation([]), 7, entry.get("expected"), entry.get("row_reward"))


async def score(name: str, entry: dict[str, Any]) -> Score:
    recipe = build({"name": name, "params": entry.get("params", {})})
    try:
        return await scored(recipe, entry)
    finally:
        await recipe.close()


async def scored(recipe: Recipe, entry: dict[str, Any]) -> Score:
    prompt = prompt_of(entry)
    recipe.check(prompt)
    return await score_completion(recipe, Completion(prompt, entry["completion"], tokens=1))


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"math_v1"}))
async def test_a_recipe_gives_the_rewards_of_its_table(name: str) -> None:
    found = [(await score(name, entry)).value for entry in TABLES[name]]

    assert mismatches(name, found) == []


async def test_math_answers_get_the_rewards_of_their_table() -> None:
    recipes: dict[str, Recipe] = {}
    found = []
    try:
        for entry in TABLES["math_v1"]:
            params = entry.get("params", {})
            key = json.dumps(params)
            recipes.setdefault(
                key, build({"name": "math_v1", "params": {"processes": 1, **params}})
            )
            found.append((await scored(recipes[key], entry)).value)
    finally:
        for recipe in recipes.values():
            await recipe.close()

    assert mismatches("math_v1", found) == []


def mismatches(name: str, found: list[float]) -> list[tuple[dict[str, Any], float]]:
    pairs = zip(TABLES[name], found, strict=True)
    return [(entry, value) for entry, value in pairs if value != entry["reward"]]


async def test_math_answers_without_the_library_compare_numbers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(math_answers, "is_installed", lambda: False)

    assert (await score("math_v1", {"expected": "1/2", "completion": "\\boxed{0.5}"})).value == 1
    assert (
        await score("math_v1", {"expected": "2", "completion": "\\boxed{\\sqrt{4}}"})
    ).value == 0
    with pytest.raises(Exception, match="not a single number, and `math-verify`"):
        await score("math_v1", {"expected": "x^2", "completion": "x^2"})
