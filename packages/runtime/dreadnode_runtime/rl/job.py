"""A reinforcement-learning job: its prompts, its reward, its loop, and its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.prompts import Asking, Prompt, prepare_prompts
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.jobs.config import DatasetRef, read_config
from dreadnode_runtime.jobs.lifecycle import Work, counted
from dreadnode_runtime.rewards.combinations import reward
from dreadnode_runtime.rewards.recipes import Recipe
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.environments import Environment, open_environment
from dreadnode_runtime.rl.loop import RlPlan, train
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Rollouts, sampling
from dreadnode_runtime.user_code.python_reward import PythonReward


@dataclass(frozen=True, slots=True)
class Source:
    """A file of prompts.

    Attributes:
        name: Of its dataset.
        path: Where it is.
        trajectories: Whether each turn of the assistant in it is a prompt.
        field: What names it in the config.
    """

    name: str
    path: Path
    trajectories: bool
    field: str


@asynccontextmanager
async def judged(config: RlConfig) -> AsyncIterator[tuple[Recipe, Environment | None]]:
    """Open the reward and the environment of CONFIG, and end what they start.

    Raises:
        JobFailed: One of them cannot be used.
    """
    recipe = reward(config.reward_recipe)
    environment = None
    try:
        environment = await open_environment(config.environment)
        yield recipe, environment
    finally:
        await recipe.close()
        if environment is not None:
            await environment.close()


def asking(
    config: RlConfig, rendering: Rendering, recipe: Recipe, environment: Environment | None
) -> Asking:
    """Return how rows become prompts in a job with CONFIG."""
    return Asking(
        rendering,
        config.max_sequence_length,
        config.max_new_tokens,
        judge=recipe.check,
        dress=(lambda said: said) if environment is None else environment.dressed,
        system_prompt=config.system_prompt,
        strict=config.strict,
        whole_rows=environment is not None or _reads_rows(recipe),
    )


def _reads_rows(recipe: Recipe) -> bool:
    """Tell whether RECIPE is given whole rows: a person's own function is."""
    return isinstance(recipe, PythonReward) or any(map(_reads_rows, recipe.parts))


def read_prompts(sources: list[Source], how: Asking) -> tuple[list[Prompt], Counts]:
    """Return the prompts of all SOURCES, with one count."""
    prompts: list[Prompt] = []
    counts = Counts()
    for source in sources:
        name = source.name if len(sources) > 1 else ""
        found, of_file = prepare_prompts(
            source.path, how, trajectories=source.trajectories, dataset=name
        )
        prompts += found
        counts.add(of_file)
    return prompts, counts


async def run_rl(work: Work) -> None:
    """Train WORK's job to its end, or to where its stop ends it, and tell how it ended.

    Raises:
        RuntimeFault: It cannot go on; whose fault it is, is the class.
    """
    job, reporter = work.job, work.reporter
    config = read_config(RlConfig, job.config)
    datasets, sources = await _fetched(work, config)
    eval_dataset = None
    if config.eval_dataset_ref is not None:
        eval_dataset = await work.service.dataset(
            config.eval_dataset_ref, work.folder, config.eval_split
        )
    async with (
        judged(config) as (recipe, environment),
        work.trainer(config) as (policy, rendering, outcome),
    ):
        if limits := await recipe.confinement():
            reporter.log(f"The reward's own code runs with {', '.join(limits)}")
        how = asking(config, rendering, recipe, environment)
        reporter.phase("validating", "rendering the prompts")
        work.tell_format(rendering)
        prompts, counts = await asyncio.to_thread(read_prompts, sources, how)
        work.tell_counts(counts, config.max_sequence_length)
        eval_prompts: list[Prompt] = []
        if eval_dataset is not None:
            source = Source(eval_dataset.name, eval_dataset.path, False, "eval_dataset_ref")
            eval_prompts, of_eval = await asyncio.to_thread(read_prompts, [source], how)
            work.tell_counts(of_eval, config.max_sequence_length, "Evaluation data: ")
            eval_prompts = eval_prompts[: config.eval_max_rollouts]
        plan = RlPlan(config, prompts, config.total_steps(len(prompts)), eval_prompts)
        history = RlHistory.told(job.metrics, outcome.step)
        rollouts = Rollouts(
            rendering,
            recipe,
            sampling(rendering, config),
            config.max_sequence_length,
            environment,
            config.max_turns,
            config.seed,
        )
        _tell_start(work, plan, rendering, counts, outcome.step)

        await train(plan, policy, rollouts, reporter, work.stop, history, outcome)

        await work.finish(
            policy,
            rendering,
            outcome,
            steps=plan.steps,
            metrics=history.final_metrics(),
            at_end=history.at(outcome.step),
            best_step=history.best_step,
            artifacts=_artifacts(config, eval_dataset),
            datasets=datasets,
            eval_dataset=eval_dataset,
            counts=counts,
        )


async def _fetched(work: Work, config: RlConfig) -> tuple[list[Dataset], list[Source]]:
    wanted: list[tuple[DatasetRef, str | None, str]] = []
    if config.prompt_dataset_ref is not None:
        wanted.append((config.prompt_dataset_ref, config.prompt_split, "prompt_dataset_ref"))
    wanted += [(ref, None, "trajectory_dataset_refs") for ref in config.trajectory_dataset_refs]
    datasets = [await work.service.dataset(ref, work.folder, split) for ref, split, _ in wanted]
    sources = [
        Source(dataset.name, dataset.path, field == "trajectory_dataset_refs", field)
        for dataset, (_, _, field) in zip(datasets, wanted, strict=True)
    ]
    return datasets, sources


def _artifacts(config: RlConfig, eval_dataset: Dataset | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "execution_mode": config.execution_mode,
        "prompt_dataset": config.prompt_dataset_ref and str(config.prompt_dataset_ref),
        "trajectory_datasets": [str(ref) for ref in config.trajectory_dataset_refs],
    }
    if eval_dataset is not None:
        made["eval_dataset"] = eval_dataset.name
    return made


def _tell_start(work: Work, plan: RlPlan, rendering: Rendering, counts: Counts, start: int) -> None:
    config = plan.config
    resumed = f" from step {start}" if start else ""
    work.reporter.tell(
        "training_start",
        message=(
            f"Training {work.job.subject}{resumed} by {config.algorithm}, {config.execution_mode}: "
            f"{counted(plan.steps, 'step')} of {counted(config.num_rollouts, 'prompt')} with "
            f"{config.group_size} answers each, out of {counted(len(plan.prompts), 'prompt')} in "
            f"{counts.usable} of {counts.rows} rows, written by {rendering.name}"
        ),
        data={
            "trainer_type": "rl",
            "backend": "tinker",
            "renderer": rendering.name,
            "start": start,
            "steps": plan.steps,
        },
    )
