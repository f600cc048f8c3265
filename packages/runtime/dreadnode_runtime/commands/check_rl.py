"""The check of an RL job before it exists: render every prompt, and try the reward.

The reward scores the first prompts with the expected answer, if there is one, and with an empty
completion. Nothing is trained or sampled.
"""

import asyncio
from pathlib import Path
from typing import Any

from dreadnode_runtime.data.counts import as_report
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import load_rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import check_trackers, check_warmup, read_config
from dreadnode_runtime.rewards.recipes import Completion, Recipe, score_completion
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.job import PromptFile, open_scoring, prompt_settings, read_prompts

TRIED = 3
"""Number of prompts that the reward is tried on."""


class Refused(Exception):
    """The job cannot be trained.

    Attributes:
        loc: The place in the request.
    """

    def __init__(self, loc: list[str], sentence: str) -> None:
        super().__init__(sentence)
        self.loc = loc


def check_rl(question: dict[str, Any]) -> dict[str, Any]:
    """Return the report about the data of the job that QUESTION describes.

    Raises:
        Refused: It cannot be trained.
    """
    return asyncio.run(_check(question))


async def _check(question: dict[str, Any]) -> dict[str, Any]:
    place, of_eval = ["config"], None
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
            await _try(recipe, prompts[:TRIED])
            if path := question["datasets"].get("eval"):
                place = ["config", "eval_dataset_ref"]
                file = PromptFile("eval", Path(path), False, "eval_dataset_ref")
                _, of_eval = read_prompts([file], how)
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
        **({"evaluation": as_report(of_eval)} if of_eval else {}),
        "prompts": len(prompts),
        "steps": steps,
        "rollouts": steps * config.num_rollouts * config.group_size,
        "renderer": rendering.name,
        "format_notes": rendering.notes,
        "confined": confined,
    }


def _sources(datasets: dict[str, Any]) -> list[PromptFile]:
    sources = []
    if path := datasets.get("train"):
        sources.append(PromptFile("prompts", Path(path), False, "prompt_dataset_ref"))
    for number, path in enumerate(datasets.get("trajectories") or [], 1):
        name = f"trajectory dataset {number}"
        sources.append(PromptFile(name, Path(path), True, "trajectory_dataset_refs"))
    return sources


async def _try(recipe: Recipe, prompts: list[Prompt]) -> None:
    """Score an expected and an empty completion of each of PROMPTS.

    Raises:
        JobFailed: The reward fails, every time or in a way that the job does not count.
    """
    answers = [
        Completion(prompt, text, tokens=1)
        for prompt in prompts
        for text in dict.fromkeys((prompt.expected or "", ""))
    ]
    scores = [await score_completion(recipe, answer) for answer in answers]
    errors = [score.error for score in scores]
    if None not in errors:
        raise JobFailed(
            f"The reward function failed on every answer that it was tried on: {errors[0]}",
            code="reward",
        )
