"""A supervised job: rows to sequences, the loop, and what it leaves."""

import asyncio
from typing import Any

from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.rendering import Example, Rendering
from dreadnode_runtime.jobs.config import SftConfig, read_config
from dreadnode_runtime.jobs.lifecycle import Work, counted
from dreadnode_runtime.sft.data import fitted, prepare_rows
from dreadnode_runtime.sft.loop import Plan, train
from dreadnode_runtime.sft.metric_history import History


async def run_sft(work: Work) -> None:
    """Train a supervised job to its end, or to where it is stopped.

    Raises:
        RuntimeFault: It cannot go on; whose fault it is, is the class.
    """
    job, reporter = work.job, work.reporter
    config = read_config(SftConfig, job.config)
    dataset = await work.service.dataset(config.dataset_ref, work.folder, config.split)
    eval_dataset = None
    if config.eval_dataset_ref is not None:
        eval_dataset = await work.service.dataset(
            config.eval_dataset_ref, work.folder, config.eval_split
        )
    async with work.trainer(config) as (trainer, rendering, so_far):
        reporter.phase("validating", "rendering the rows")
        rendering = await asyncio.to_thread(fitted, dataset.path, rendering, config)
        work.tell_format(rendering)
        rows, counts = await asyncio.to_thread(_rendered, dataset, rendering, config)
        eval_rows: list[list[Example]] = []
        if eval_dataset is not None:
            eval_rows, eval_counts = await asyncio.to_thread(
                _rendered, eval_dataset, rendering, config
            )
            work.tell_counts(eval_counts, config.max_sequence_length, "Evaluation data: ")
        plan = Plan(config, rows, config.total_steps(len(rows)), eval_rows)
        history = History.told(
            job.metrics,
            so_far.step,
            lambda step: config.rate(step, plan.steps),
            config.early_stopping_min_delta,
        )
        resumed = f" from step {so_far.step}" if so_far.step else ""
        reporter.tell(
            "training_start",
            message=(
                f"Training {job.subject}{resumed}: {counted(plan.steps, 'step')} on "
                f"{counts.usable} of {counts.rows} rows, {counts.tokens} tokens of which "
                f"{counts.trained_tokens} carry loss, written by {rendering.name}"
            ),
            data={
                "trainer_type": "sft",
                "backend": "tinker",
                "renderer": rendering.name,
                "start": so_far.step,
                "steps": plan.steps,
            },
        )
        work.tell_counts(counts, config.max_sequence_length)

        outcome = await train(plan, trainer, reporter, work.stop, history, so_far)
        artifacts: dict[str, Any] = {"dataset": dataset.name}
        if eval_dataset is not None:
            artifacts["eval_dataset"] = eval_dataset.name
        await work.finish(
            trainer,
            rendering,
            outcome,
            steps=plan.steps,
            metrics=history.final_metrics(
                rows=len(rows),
                rows_per_step=config.rows_per_step(),
                accumulation=config.gradient_accumulation_steps,
                eval_rows=len(eval_rows),
            ),
            at_end=history.at(outcome.step),
            best_step=history.best_step,
            artifacts=artifacts,
            datasets=[dataset],
            eval_dataset=eval_dataset,
            counts=counts,
        )


def _rendered(
    dataset: Dataset, rendering: Rendering, config: SftConfig
) -> tuple[list[list[Example]], Counts]:
    rows: list[list[Example]] = []
    counts = prepare_rows(dataset.path, rendering, config, rows.append)
    return rows, counts
