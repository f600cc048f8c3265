"""Tries the reward of an RL job before the job exists, on completions of the first prompts.

Each prompt gets a right, a wrong and an empty completion. The right one is the expected answer, if
the row has one, and the wrong one the answer of another row.
"""

from collections.abc import Sequence
from typing import Any

from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.combinations import iterate_recipes
from dreadnode_runtime.rewards.python_reward import PythonReward
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score, score_completion

TRIED = 3
"""Number of prompts that the reward is tried on."""
WRONG = "This is not the answer."
"""The wrong completion where no other row has another answer."""
WRONG_AMONG = 100
"""Among how many prompts another answer is looked for."""
SHOWN_CHARACTERS = 200
"""How much of a completion is reported."""
FORMS = (
    "The answer is {}.",
    "{}\n\nThat is because one step follows from the other, and each of them can be checked.",
    "#### {}",
    "\\boxed{{{}}}",
    "<think>First, look at it.</think>\n<answer>{}</answer>",
    "```\n{}\n```",
    '{{"answer": "{}"}}',
)
"""Forms of the right answer, for a reward that asks for one of them."""


async def try_reward(recipe: Recipe, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return the scores of a right, a wrong and an empty completion of the first of PROMPTS.

    Raises:
        JobFailed: The reward fails, every time or in a way that the job does not count.
    """
    tried = []
    for prompt in prompts[:TRIED]:
        completions = {"right": prompt.expected, "wrong": _wrong(prompt, prompts), "empty": ""}
        for kind, text in completions.items():
            if text is not None and (text or kind == "empty"):
                tried.append((prompt, kind, text, await _score(recipe, prompt, text)))
    errors = [score.error for _, _, _, score in tried]
    if None not in errors:
        raise JobFailed(
            f"The reward function failed on every answer that it was tried on: {errors[0]}",
            code="reward",
        )
    return [
        {
            "row": prompt.row,
            "kind": kind,
            "completion": text[:SHOWN_CHARACTERS],
            "reward": score.value if score.error is None else None,
            "error": score.error,
        }
        for prompt, kind, text, score in tried
    ]


async def refuse_constant(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Refuse a function of the user's own that gives all completions of a prompt the same reward.

    Only prompts with an expected answer can show it: they have a completion that is right.

    Raises:
        JobFailed: Right, wrong and empty completions of the first prompts get the same reward.
    """
    own = [each for each in iterate_recipes(recipe) if isinstance(each, PythonReward)]
    first = prompts[:TRIED]
    if not own or any(each.allow_constant for each in own) or not all(p.expected for p in first):
        return
    for prompt in first:
        if await _varies(recipe, prompt, _wrong(prompt, prompts)):
            return
    raise JobFailed(
        "The reward function gives right, wrong and empty completions of a prompt the same reward "
        "for each of the first prompts, so there is nothing to learn; make it depend on the "
        "completion, or set `allow_constant` in its `params` if it does so for completions that "
        "the check does not try",
        code="reward",
    )


async def _varies(recipe: Recipe, prompt: Prompt, wrong: str) -> bool:
    right = str(prompt.expected)
    values: set[float] = set()
    for text in (right, wrong, "", *(form.format(right) for form in FORMS)):
        try:
            values.add((await _score(recipe, prompt, text)).value)
        except JobFailed:
            # It tells this completion apart, which no model may ever write.
            return True
        if len(values) > 1:
            return True
    return False


async def _score(recipe: Recipe, prompt: Prompt, text: str) -> Score:
    return await score_completion(recipe, Completion(prompt, text, tokens=1))


def _wrong(prompt: Prompt, prompts: Sequence[Prompt]) -> str:
    """Return the answer of another prompt, which is none to PROMPT."""
    others = (each.expected for each in prompts[:WRONG_AMONG] if each.expected)
    return next((other for other in others if other != prompt.expected), WRONG)
