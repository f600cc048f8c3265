"""The check of an RL job before it exists: render every prompt, and try the reward.

The reward scores a right, a wrong and an empty completion of the first prompts. The right one is
the expected answer, if the row has one, and the wrong one the answer of another row. Nothing is
trained or sampled.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.refused import Refused
from dreadnode_runtime.data.counts import as_report
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.overview import Overview
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.shown import prompt_shown
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import check_trackers, check_warmup, read_config
from dreadnode_runtime.rewards.recipes import Completion, Recipe, score_completion
from dreadnode_runtime.rl.bounds import token_bounds
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.job import PromptFile, open_scoring, prompt_settings, read_prompts

TRIED = 3
"""Number of prompts that the reward is tried on."""
WRONG = "This is not the answer."
"""The wrong completion where no other row has another answer."""
WRONG_AMONG = 100
"""Among how many prompts another answer is looked for."""
SHOWN_CHARACTERS = 200
"""How much of a completion is reported."""


def check_rl(question: dict[str, Any]) -> dict[str, Any]:
    """Return the report about the data of the job that QUESTION describes.

    Raises:
        Refused: It cannot be trained.
    """
    return asyncio.run(_check(question))


async def _check(question: dict[str, Any]) -> dict[str, Any]:
    place = ["config"]
    of_eval: dict[str, Any] = {}
    eval_prompts: list[Prompt] = []
    try:
        config = read_config(RlConfig, question["config"])
        place = ["config", "track"]
        check_trackers(config)
        place = ["model"]
        rendering = load_rendering(
            question["model"], rehearsal=question["rehearsal"], tokenizer=question["tokenizer"]
        )
        place = ["config", "reward_recipe"]
        async with open_scoring(config) as (recipe, environment):
            confined = await recipe.confinement()
            how = prompt_settings(config, rendering, recipe, environment)
            sources = _sources(question["datasets"])
            place = ["config", sources[0].field]
            prompts, counts = read_prompts(sources, how)
            place = ["config", "reward_recipe"]
            samples = await _try(recipe, prompts)
            training = _overview(prompts)
            if path := question["datasets"].get("eval"):
                place = ["config", "eval_dataset_ref"]
                file = PromptFile("eval", Path(path), False, "eval_dataset_ref")
                eval_prompts, counted = read_prompts([file], how)
                overview = _overview(eval_prompts)
                shared = {"shared": overview.shared_with(training)}
                of_eval = {"evaluation": {**as_report(counted), **overview.report(), **shared}}
        place = ["config", "warmup_steps"]
        steps = config.total_steps(len(prompts))
        check_warmup(config, steps)
    except JobFailed as refusal:
        if refusal.code == "environment":
            place = ["config", "environment"]
        raise Refused(place, str(refusal)) from refusal
    return {
        "ok": True,
        **as_report(counts),
        **training.report(),
        **of_eval,
        "prompts": len(prompts),
        "steps": steps,
        "rollouts": steps * config.num_rollouts * config.group_size,
        "renderer": rendering.name,
        "format_notes": rendering.notes,
        "confined": confined,
        "reward_samples": samples,
        "plan": _plan(config, prompts, eval_prompts),
        "shown": _shown(prompts, question.get("show"), rendering),
    }


def _overview(prompts: list[Prompt]) -> Overview:
    overview = Overview()
    dataset: str | None = None
    for prompt in prompts:
        if prompt.dataset != dataset:
            dataset = prompt.dataset
            overview.start(dataset)
        overview.add_prompt(prompt.row, prompt.tokens)
    return overview


def _plan(config: RlConfig, prompts: list[Prompt], eval_prompts: list[Prompt]) -> dict[str, Any]:
    """Return the steps of the job, and the fewest and the most tokens that it sends, by kind."""
    steps = config.total_steps(len(prompts))
    least, most = token_bounds(config, prompts, eval_prompts[: config.eval_max_rollouts])
    return {
        "steps": steps,
        "rows_per_epoch": len(prompts),
        "rows_per_step": config.num_rollouts,
        "evaluations": config.evaluations(steps) if eval_prompts else 0,
        "at_least": least,
        "at_most": most,
    }


def _shown(
    prompts: list[Prompt], row: int | None, rendering: Rendering
) -> Mapping[str, Any] | None:
    found = next((prompt for prompt in prompts if row in (None, prompt.row)), None)
    return None if found is None else prompt_shown(found.row, found.tokens, rendering)


def _sources(datasets: dict[str, Any]) -> list[PromptFile]:
    sources = []
    if path := datasets.get("train"):
        sources.append(PromptFile("prompts", Path(path), False, "prompt_dataset_ref"))
    for number, path in enumerate(datasets.get("trajectories") or [], 1):
        name = f"trajectory dataset {number}"
        sources.append(PromptFile(name, Path(path), True, "trajectory_dataset_refs"))
    return sources


async def _try(recipe: Recipe, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Return the scores of a right, a wrong and an empty completion of the first of PROMPTS.

    Raises:
        JobFailed: The reward fails, every time or in a way that the job does not count.
    """
    tried = []
    for prompt in prompts[:TRIED]:
        completions = {"right": prompt.expected, "wrong": _wrong(prompt, prompts), "empty": ""}
        for kind, text in completions.items():
            if text is not None and (text or kind == "empty"):
                score = await score_completion(recipe, Completion(prompt, text, tokens=1))
                tried.append((prompt, kind, text, score))
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


def _wrong(prompt: Prompt, prompts: list[Prompt]) -> str:
    """Return the answer of another prompt, which is none to PROMPT."""
    others = (each.expected for each in prompts[:WRONG_AMONG] if each.expected)
    return next((other for other in others if other != prompt.expected), WRONG)
