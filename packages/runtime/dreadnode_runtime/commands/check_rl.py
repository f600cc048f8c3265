"""The check of an RL job before it exists: render every prompt, and try the reward.

Nothing is trained or sampled.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.refused import Refused
from dreadnode_runtime.commands.try_reward import refuse_constant, try_reward
from dreadnode_runtime.data.counts import as_report
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.overview import Overview
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.shown import SAMPLED, Density, prompt_shown
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import check_trackers, check_warmup, read_config
from dreadnode_runtime.jobs.learning_rate import usual_learning_rate
from dreadnode_runtime.rl.bounds import token_bounds
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.job import PromptFile, open_scoring, prompt_settings, read_prompts


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
            samples = await try_reward(recipe, prompts)
            if environment is None:
                await refuse_constant(recipe, prompts)
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
        "usual_learning_rate": usual_learning_rate(question["model"]),
        "confined": confined,
        "reward_samples": samples,
        "plan": _plan(config, prompts, eval_prompts),
        "characters_per_token": _density(prompts, rendering),
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


def _density(prompts: list[Prompt], rendering: Rendering) -> float | None:
    density = Density(rendering)
    for prompt in prompts[:SAMPLED]:
        density.offer(list(prompt.tokens))
    return density.report()


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
