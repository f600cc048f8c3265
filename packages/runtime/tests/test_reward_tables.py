"""Each recipe gives the rewards in its table, `reward_tables/RECIPE.json`.

An entry has a `completion` and its `reward`, and where the recipe needs them `expected` (the row's
answer), `row_reward` (the row's own reward), `tokens` (number of sampled tokens) and `params` (the
recipe's parameters).
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.rewards import math_answers
from dreadnode_runtime.rewards.combinations import RECIPES, build
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score, score_completion

TABLES = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in Path(__file__).parent.glob("reward_tables/*.json")
}
ONE_PROCESS = {name: {"processes": 1} for name in ("math_v1", "python_v1")}


@asynccontextmanager
async def recipes_of(name: str) -> AsyncIterator[Callable[[dict[str, Any]], Recipe]]:
    """Build each recipe once for all entries with the same parameters: some start processes."""
    built: dict[str, Recipe] = {}

    def recipe(entry: dict[str, Any]) -> Recipe:
        params = {**ONE_PROCESS.get(name, {}), **entry.get("params", {})}
        key = json.dumps(params, sort_keys=True)
        if key not in built:
            built[key] = build({"name": name, "params": params})
        return built[key]

    try:
        yield recipe
    finally:
        for each in built.values():
            await each.close()


async def score(recipe: Recipe, entry: dict[str, Any]) -> Score:
    expected = entry.get("expected")
    prompt = Prompt(Conversation([]), 7, expected, entry.get("row_reward"), {"answer": expected})
    recipe.check(prompt)
    completion = Completion(prompt, entry["completion"], tokens=entry.get("tokens", 1))
    return await score_completion(recipe, completion)


@pytest.mark.parametrize("name", sorted(TABLES))
async def test_a_recipe_gives_the_rewards_of_its_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREADNODE_ALLOW_CUSTOM_CODE", "1")
    async with recipes_of(name) as recipe:
        found = [(await score(recipe(entry), entry)).value for entry in TABLES[name]]

    assert mismatches(name, found) == []


def test_every_recipe_has_a_table_of_at_least_60_answers() -> None:
    assert set(RECIPES) - set(TABLES) == set()
    assert [name for name, entries in TABLES.items() if len(entries) < 60] == []


def mismatches(name: str, found: list[float]) -> list[tuple[dict[str, Any], float]]:
    pairs = zip(TABLES[name], found, strict=True)
    return [(entry, value) for entry, value in pairs if value != entry["reward"]]


async def test_math_answers_without_the_library_compare_numbers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(math_answers, "is_installed", lambda: False)

    async with recipes_of("math_v1") as recipe:
        entries = [
            {"expected": "1/2", "completion": "\\boxed{0.5}"},
            {"expected": "2", "completion": "\\boxed{\\sqrt{4}}"},
        ]
        assert [(await score(recipe(entry), entry)).value for entry in entries] == [1, 0]
        with pytest.raises(Exception, match="not a single number, and `math-verify`"):
            await score(recipe({}), {"expected": "x^2", "completion": "x^2"})
