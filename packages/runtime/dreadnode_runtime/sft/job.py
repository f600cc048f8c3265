"""A supervised job: render the rows, run the loop, return the results."""

import asyncio
from collections.abc import Sequence
from typing import Any

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.jobs.config import SftConfig, read_config
from dreadnode_runtime.jobs.lifecycle import JobContext
from dreadnode_runtime.jobs.outcome import Results, plural
from dreadnode_runtime.jobs.row_files import RowFile
from dreadnode_runtime.sft.data import fitted, prepare_file
from dreadnode_runtime.sft.loop import Plan, train
from dreadnode_runtime.sft.metric_history import History


async def run_sft(context: JobContext) -> dict[str, Any] | None:
    """Train a supervised job, and return its final event; None if another attempt resumes it.

    Raises:
        RuntimeFault: The job failed (`JobFailed`), or this attempt did.
    """
    job, reporter = context.job, context.reporter
    config = read_config(SftConfig, job.config).at_most(job.rehearse_steps)
    datasets, files, eval_dataset = await context.training_data(
        config, config.dataset_ref, config.split, "dataset_ref"
    )
    async with context.trainer(config) as (trainer, rendering, outcome):
        reporter.phase("validating", "rendering the rows")
        rendering = await asyncio.to_thread(fitted, files, rendering, config)
        context.report_format(rendering)
        rows, counts = await asyncio.to_thread(_render, files, rendering, config)
        eval_rows: list[list[Example]] = []
        if eval_dataset is not None:
            eval_file = RowFile(eval_dataset.path, field="eval_dataset_ref")
            eval_rows, eval_counts = await asyncio.to_thread(
                _render, [eval_file], rendering, config
            )
            context.report_counts(eval_counts, config.max_sequence_length, "Evaluation data: ")
        plan = Plan(config, rows, eval_rows)
        history = History.from_metrics(
            job.metrics,
            outcome.step,
            lambda step: config.rate(step, plan.steps),
            config.min_delta,
        )
        resumed = f" from step {outcome.step}" if outcome.step else ""
        reporter.report(
            "training_start",
            message=(
                f"Training {job.model_description}{resumed}: {plural(plan.steps, 'step')} on "
                f"{counts.usable} of {counts.rows} rows, {counts.tokens} tokens of which "
                f"{counts.trained_tokens} carry loss, rendered by {rendering.name}"
            ),
            data={
                "trainer_type": "sft",
                "backend": "tinker",
                "renderer": rendering.name,
                "start": outcome.step,
                "steps": plan.steps,
            },
        )
        context.report_counts(counts, config.max_sequence_length)

        await train(plan, trainer, reporter, context.stop, history, outcome)

        artifacts: dict[str, Any] = {}
        if config.dataset_ref is not None:
            artifacts["dataset"] = datasets[0].name
        if config.trajectory_dataset_refs:
            artifacts["trajectory_datasets"] = [str(ref) for ref in config.trajectory_dataset_refs]
        if eval_dataset is not None:
            artifacts["eval_dataset"] = eval_dataset.name
        results = Results(
            steps=plan.steps,
            metrics=history.final_metrics(
                rows=len(rows),
                rows_per_step=config.rows_per_step(),
                accumulation=config.gradient_accumulation_steps,
                eval_rows=len(eval_rows),
            ),
            last_step_metrics=history.at(outcome.step),
            best_step=history.best_step,
            artifacts=artifacts,
            datasets=datasets,
            eval_dataset=eval_dataset,
            counts=counts,
        )
        return await context.finish(trainer, rendering, outcome, results)


def _render(
    files: Sequence[RowFile], rendering: Rendering, config: SftConfig
) -> tuple[list[list[Example]], Counts]:
    """Return the sequences of every usable row of FILES, in their order, with one count."""
    rows: list[list[Example]] = []
    counts = Counts()
    for file in files:
        counts.add(prepare_file(file, rendering, config, rows.append))
    return rows, counts
