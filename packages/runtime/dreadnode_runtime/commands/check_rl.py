"""The check of an RL job before it exists: render every prompt, and try the reward.

Nothing is trained or sampled.
"""

import asyncio
from collections.abc import Mapping, Sequence
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
from dreadnode_runtime.jobs.row_files import RowFile, checked_files
from dreadnode_runtime.rl.bounds import token_bounds
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.job import open_scoring, prompt_settings, read_prompts


def check_rl(question: dict[str, Any]) -> dict[str, Any]:
    """Return the report about the data of the job that QUESTION describes.

    Raises:
        Refused: It cannot be trained.
    """
    return asyncio.run(_check(question))


async def _check(question: dict[str, Any]) -> dict[str, Any]:
    place = ["config"]
    of_eval: dict[str, Any] = {}
    evaluation: _Prompts | None = None
    try:
        config = read_config(RlConfig, question["config"])
        place = ["config", "track"]
        check_trackers(config)
        place = ["model"]
        rendering = load_rendering(
            question["model"],
            rehearsal=question["rehearsal"],
            tokenizer=question["tokenizer"],
            chosen=config.tokenizer,
        )
        place = ["config", "reward_recipe"]
        async with open_scoring(config.reward_recipe, config.environment) as (
            recipe,
            environment,
        ):
            confined = await recipe.confinement()
            how = prompt_settings(config, config.max_new_tokens, rendering, recipe, environment)
            sources = checked_files(question["datasets"], "prompt_dataset_ref", "prompts")
            place = ["config", sources[0].field]
            training = _Prompts(question.get("show"))
            counts = read_prompts(sources, how, training.add)
            place = ["config", "reward_recipe"]
            samples = await try_reward(recipe, training.first)
            if environment is None:
                await refuse_constant(recipe, training.first)
            if path := question["datasets"].get("eval"):
                place = ["config", "eval_dataset_ref"]
                file = RowFile(Path(path), field="eval_dataset_ref")
                evaluation = _Prompts(None)
                counted = read_prompts([file], how, evaluation.add)
                overview = evaluation.overview
                shared = {"shared": overview.shared_with(training.overview)}
                of_eval = {"evaluation": {**as_report(counted), **overview.report(), **shared}}
        place = ["config", "warmup_steps"]
        prompts = len(training.lengths)
        steps = config.total_steps(prompts)
        check_warmup(config, steps)
    except JobFailed as refusal:
        if refusal.code == "tokenizer":
            place = ["config", "tokenizer"]
        if refusal.code == "environment":
            place = ["config", "environment"]
        raise Refused(place, str(refusal)) from refusal
    return {
        "ok": True,
        **as_report(counts),
        **training.overview.report(),
        **of_eval,
        "prompts": prompts,
        "steps": steps,
        "rollouts": steps * config.num_rollouts * config.group_size,
        "renderer": rendering.name,
        "format_notes": rendering.notes,
        "usual_learning_rate": usual_learning_rate(question["model"]),
        "confined": confined,
        "reward_samples": samples,
        "plan": _plan(config, training.lengths, () if evaluation is None else evaluation.lengths),
        "characters_per_token": _density(training.first, rendering),
        "shown": training.report_shown(rendering),
    }


class _Prompts:
    """Collects what a check reports about prompts, and of the prompts themselves only a few.

    Attributes:
        overview: Their lengths, and which of them are alike.
        first: The first ones, whole.
    """

    def __init__(self, show: int | None) -> None:
        self.overview = Overview()
        self.first: list[Prompt] = []
        self._show = show
        self._shown: Prompt | None = None
        self._dataset: str | None = None

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each prompt."""
        return self.overview.input_tokens

    def add(self, prompt: Prompt) -> None:
        """Take in PROMPT."""
        if prompt.dataset != self._dataset:
            self._dataset = prompt.dataset
            self.overview.start(prompt.dataset)
        self.overview.add_prompt(prompt.row, prompt.tokens)
        if len(self.first) < SAMPLED:
            self.first.append(prompt)
        if self._shown is None and self._show in (None, prompt.row):
            self._shown = prompt

    def report_shown(self, rendering: Rendering) -> Mapping[str, Any] | None:
        """Return the prompt of the row to show; None if there is none of this number."""
        if self._shown is None:
            return None
        return prompt_shown(self._shown.row, self._shown.tokens, rendering)


def _plan(config: RlConfig, prompts: Sequence[int], eval_prompts: Sequence[int]) -> dict[str, Any]:
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


def _density(prompts: Sequence[Prompt], rendering: Rendering) -> float | None:
    density = Density(rendering)
    for prompt in prompts:
        density.offer(list(prompt.tokens))
    return density.report()
