"""A reinforcement-learning job: read the prompts, open the reward, run the loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.prompts import Prompt, PromptSettings, prepare_prompts
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.jobs.config import JobConfig, read_config
from dreadnode_runtime.jobs.lifecycle import JobContext
from dreadnode_runtime.jobs.outcome import Results, plural
from dreadnode_runtime.jobs.row_files import TRAJECTORIES, RowFile
from dreadnode_runtime.rewards.combinations import load_reward
from dreadnode_runtime.rewards.python_reward import PythonReward
from dreadnode_runtime.rewards.recipes import Recipe
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.environments import Environment, open_environment
from dreadnode_runtime.rl.loop import RlPlan, train
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Rollouts, sampling_params


@asynccontextmanager
async def open_scoring(
    reward: Mapping[str, Any], environment: Mapping[str, Any] | None
) -> AsyncIterator[tuple[Recipe, Environment | None]]:
    """Open a job's REWARD and ENVIRONMENT, and close them at the end.

    Raises:
        JobFailed: One of them cannot be used.
    """
    recipe = load_reward(dict(reward))
    opened = None
    try:
        opened = await open_environment(None if environment is None else dict(environment))
        yield recipe, opened
    finally:
        await recipe.close()
        if opened is not None:
            await opened.close()


def prompt_settings(
    config: JobConfig,
    new_tokens: int,
    rendering: Rendering,
    recipe: Recipe,
    environment: Environment | None,
) -> PromptSettings:
    """Return how a job with CONFIG turns rows into prompts with room for NEW_TOKENS."""
    return PromptSettings(
        rendering,
        config.max_sequence_length,
        new_tokens,
        check=recipe.check,
        add_tools=(lambda conversation: conversation)
        if environment is None
        else environment.with_tools,
        system_prompt=config.system_prompt,
        strict=config.strict,
        whole_rows=environment is not None or reads_rows(recipe),
    )


def reads_rows(recipe: Recipe) -> bool:
    """Whether RECIPE gets whole rows, as a user's own function does."""
    return isinstance(recipe, PythonReward) or any(map(reads_rows, recipe.parts))


def read_prompts(
    files: list[RowFile], settings: PromptSettings, keep: Callable[[Prompt], None]
) -> Counts:
    """Hand the prompts of all FILES to KEEP, and return the sum of their row counts."""
    counts = Counts()
    for file in files:
        trajectories = file.field == TRAJECTORIES
        of_file = prepare_prompts(
            file.path, settings, keep, trajectories=trajectories, dataset=file.name
        )
        counts.add(of_file)
    return counts


async def run_rl(context: JobContext) -> dict[str, Any] | None:
    """Train an RL job, and return its final event; None if another attempt resumes it.

    Raises:
        RuntimeFault: The job failed (`JobFailed`), or this attempt did.
    """
    job, reporter = context.job, context.reporter
    config = read_config(RlConfig, job.config).at_most(job.rehearse_steps)
    datasets, files, eval_dataset = await context.training_data(
        config, config.prompt_dataset_ref, config.prompt_split, "prompt_dataset_ref"
    )
    async with (
        open_scoring(config.reward_recipe, config.environment) as (recipe, environment),
        context.trainer(config) as (policy, rendering, outcome),
    ):
        if limits := await recipe.confinement():
            reporter.log(f"The reward's code runs with {', '.join(limits)}")
        settings = prompt_settings(config, config.max_new_tokens, rendering, recipe, environment)
        reporter.phase("validating", "rendering the prompts")
        context.report_format(rendering)
        prompts: list[Prompt] = []
        counts = await asyncio.to_thread(read_prompts, files, settings, prompts.append)
        context.report_counts(counts, config.max_sequence_length)
        eval_prompts: list[Prompt] = []
        if eval_dataset is not None:
            file = RowFile(eval_dataset.path, field="eval_dataset_ref")
            eval_counts = await asyncio.to_thread(
                read_prompts, [file], settings, eval_prompts.append
            )
            context.report_counts(eval_counts, config.max_sequence_length, "Evaluation data: ")
            eval_prompts = eval_prompts[: config.eval_max_rollouts]
        plan = RlPlan(config, prompts, config.total_steps(len(prompts)), eval_prompts)
        history = RlHistory.from_metrics(job.metrics, outcome.step)
        rollouts = Rollouts(
            rendering,
            recipe,
            sampling_params(rendering, config),
            config.max_sequence_length,
            environment,
            config.max_turns,
            config.seed,
            config.stop,
        )
        _report_start(context, plan, rendering, counts, outcome.step)

        await train(plan, policy, rollouts, reporter, context.stop, history, outcome)

        results = Results(
            steps=plan.steps,
            metrics=history.final_metrics(),
            last_step_metrics=history.at(outcome.step),
            best_step=history.best_step,
            artifacts=_artifacts(config, eval_dataset),
            datasets=datasets,
            eval_dataset=eval_dataset,
            counts=counts,
        )
        return await context.finish(policy, rendering, outcome, results)


def _artifacts(config: RlConfig, eval_dataset: Dataset | None) -> dict[str, Any]:
    artifacts: dict[str, Any] = {
        "execution_mode": config.execution_mode,
        "prompt_dataset": config.prompt_dataset_ref and str(config.prompt_dataset_ref),
        "trajectory_datasets": [str(ref) for ref in config.trajectory_dataset_refs],
    }
    if eval_dataset is not None:
        artifacts["eval_dataset"] = eval_dataset.name
    return artifacts


def _report_start(
    context: JobContext, plan: RlPlan, rendering: Rendering, counts: Counts, start: int
) -> None:
    config = plan.config
    resumed = f" from step {start}" if start else ""
    context.reporter.report(
        "training_start",
        message=(
            f"Training {context.job.model_description}{resumed} with {config.algorithm}, "
            f"{config.execution_mode}: {plural(plan.steps, 'step')} of "
            f"{plural(config.num_rollouts, 'prompt')} with {config.group_size} completions each, "
            f"from {plural(len(plan.prompts), 'prompt')} in {counts.usable} of {counts.rows} rows, "
            f"rendered by {rendering.name}"
        ),
        data={
            "trainer_type": "rl",
            "backend": "tinker",
            "renderer": rendering.name,
            "start": start,
            "steps": plan.steps,
        },
    )
