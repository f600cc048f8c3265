"""An evaluation: render the rows, measure each model on them, compare the models."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dreadnode_runtime.backend.policy import SamplingParams
from dreadnode_runtime.backend.tinker_policy import TinkerSampler, open_sampler
from dreadnode_runtime.backend.tinker_trainer import until_outage
from dreadnode_runtime.control.api import MODEL_KEY
from dreadnode_runtime.data.normal_form import content_text
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.evaluation.config import EvalConfig, EvaluatedModel, evaluated_models
from dreadnode_runtime.evaluation.results import FOLDER, ResultStore, RowResult, write_lines
from dreadnode_runtime.evaluation.rows import EvalRows, RenderedRows, read_rows
from dreadnode_runtime.evaluation.summary import comparisons, model_figures
from dreadnode_runtime.jobs.config import read_config
from dreadnode_runtime.jobs.lifecycle import JobContext
from dreadnode_runtime.jobs.outcome import plural
from dreadnode_runtime.rewards.recipes import Recipe
from dreadnode_runtime.rl.environments import Environment
from dreadnode_runtime.rl.job import open_scoring
from dreadnode_runtime.rl.rollouts import Rollouts

AT_ONCE = 32
"""Rows that are under way at the same time, so that the engine can batch them."""
REPORTS = 200
"""About how many progress events an evaluation sends."""
Scoring = tuple[Recipe, Environment | None]


@asynccontextmanager
async def scoring(config: EvalConfig) -> AsyncIterator[Scoring | None]:
    """Open the reward and the environment of CONFIG; None without a reward."""
    if config.reward_recipe is None:
        yield None
        return
    async with open_scoring(config.reward_recipe, config.environment) as opened:
        yield opened


async def run_eval(context: JobContext) -> dict[str, Any] | None:
    """Evaluate the models of a job, and return its final event; None if another attempt resumes.

    Raises:
        RuntimeFault: The job failed (`JobFailed`), or this attempt did.
    """
    job, reporter = context.job, context.reporter
    config = read_config(EvalConfig, job.config)
    models = evaluated_models(job.artifacts)
    dataset = await context.dataset(config.dataset_ref, config.split)
    async with scoring(config) as scored:
        reporter.phase("validating", "rendering the rows")
        formats = [model.format for model in models]
        rows = await asyncio.to_thread(read_rows, dataset.path, formats, config, scored)
        store = ResultStore(context.api, context.folder, len(models) * len(rows.numbers))
        await store.load()
        run = _Run(context, config, models, rows, store, scored, done=len(store))
        run.report_start()
        # From here on there is something to keep when the process must exit.
        context.stop.training = True
        for number in range(len(models)):
            await run.measure(number)
        await store.flush()
        return await run.finish(dataset.name)


@dataclass
class _Run:
    """An evaluation under way."""

    context: JobContext
    config: EvalConfig
    models: list[EvaluatedModel]
    rows: EvalRows
    store: ResultStore
    scored: Scoring | None
    done: int
    started: float = field(default_factory=time.monotonic)
    reported: int = 0

    def __post_init__(self) -> None:
        self.total = len(self.models) * len(self.rows.numbers)
        self.done_before = self.done

    def report_start(self) -> None:
        """Report what is evaluated, and how much of it earlier attempts have done."""
        reporter = self.context.reporter
        earlier = f"; {self.done} of {self.total} results are stored already" if self.done else ""
        reporter.report(
            "training_start",
            message=(
                f"Evaluating {plural(len(self.models), 'model')} on "
                f"{plural(len(self.rows.numbers), 'row')}{earlier}"
            ),
            data={"trainer_type": "eval", "start": self.done, "steps": self.total},
        )
        reporter.phase("evaluating")
        shown = set()
        for found in self.rows.formats.values():
            self.context.report_format(found.rendering)
            for warning in found.counts.warnings():
                if warning not in shown:
                    reporter.log(warning, level="warning")
                shown.add(warning)

    async def measure(self, number: int) -> None:
        """Measure the model NUMBER on all rows that have no result of it yet.

        Raises:
            RuntimeFault: A row failed.
        """
        left = [row for row in self.rows.numbers if not self.store.has(number, row)]
        if not left or self.context.stop.before_step():
            return
        model = self.models[number]
        self.context.reporter.log(f"Evaluating {model.name} on {plural(len(left), 'row')}")
        async with open_sampler(
            model.checkpoint,
            model.base_model,
            key=os.environ.get(f"{MODEL_KEY}{number}"),
            meter=self.context.ledger.meter,
            watch=until_outage,
        ) as sampler:
            measured = _Measure(self, number, self.rows.formats[model.format], sampler)
            queue = iter(left)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(AT_ONCE, len(left))):
                        group.create_task(self._work(queue, measured))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def _work(self, queue: Iterator[int], measured: "_Measure") -> None:
        for row in queue:
            await self.store.add(await measured.row(row))
            self.done += 1
            if self.done - self.reported >= self.total / REPORTS or self.done == self.total:
                self._report_progress(measured.number)
            if self.context.stop.before_step():
                return

    def _report_progress(self, number: int) -> None:
        self.reported = self.done
        figures = model_figures(self.store.of(number)) if self.total <= 20 * REPORTS else {}
        new = self.done - self.done_before
        seconds = (time.monotonic() - self.started) / new * (self.total - self.done)
        self.context.reporter.report(
            "step_complete",
            metrics={"steps": [self.done], **_metrics(number, figures)},
            data={
                "step": self.done,
                "steps": self.total,
                "tokens_total": sum(self.context.ledger.tokens.values()),
                "seconds_left": round(seconds, 1),
            },
        )

    async def finish(self, dataset: str) -> dict[str, Any] | None:
        """Store the result, and return the job's final event."""
        stop, ledger = self.context.stop, self.context.ledger
        if stop.leave_to_next_attempt or stop.delivery_error is not None:
            return None
        result, metrics = await asyncio.to_thread(self._result, dataset)
        folder = self.context.folder
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        await asyncio.to_thread(write_lines, folder / "rows.jsonl", self._rows())
        for name in ("rows.jsonl", "result.json"):
            await self.context.api.upload(FOLDER + name, folder / name)
        if ledger.usd is not None and not self.context.job.rehearsal:
            metrics["cost/list_usd"] = round(float(ledger.usd), 6)
        data: dict[str, Any] = {"step": self.done}
        message = f"Evaluated {plural(len(self.models), 'model')}"
        if stop.cancelled:
            data["cancelled"] = True
            message = f"Cancelled after {self.done} of {self.total} results"
        elif stop.over_budget and self.done < self.total:
            data["stopped_by"] = "budget"
            message = f"Stopped by the budget after {self.done} of {self.total} results"
        artifacts = {"evaluation": FOLDER, "dataset": dataset}
        return {"message": message, "metrics": metrics, "data": data, "artifacts": artifacts}

    def _result(self, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
        results = {number: self.store.of(number) for number in range(len(self.models))}
        figures = [model_figures(results[number]) for number in results]
        described: list[Any] = self.context.job.artifacts["models"]
        metrics: dict[str, Any] = {}
        for number, found in enumerate(figures):
            metrics |= _metrics(number, found)
        return {
            "dataset": dataset,
            "split": self.config.split,
            "rows": len(self.rows.numbers),
            "confidence": 0.95,
            "models": [
                {
                    **about,
                    "renderer": self.rows.formats[model.format].rendering.name,
                    **found,
                }
                for about, model, found in zip(described, self.models, figures, strict=True)
            ],
            "comparisons": comparisons(self.models, results, self._questions()),
        }, metrics

    def _questions(self) -> dict[int, str]:
        found = self.rows.formats[self.models[0].format]
        return {
            row: content_text(prompt.conversation.messages[-1]["content"])
            for row, prompt in found.prompts.items()
        }

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for each in self.store.in_order():
            yield {
                "row": each.row,
                "model": self.models[each.model].name,
                "loss": each.mean_loss,
                "loss_tokens": each.tokens,
                "reward": each.reward,
                "rewards": each.rewards,
                "completions": each.completions,
                "truncated": each.truncated,
                "sampled_tokens": each.sampled_tokens,
            }


@dataclass(frozen=True)
class _Measure:
    """Measures rows with the weights of one model."""

    run: _Run
    number: int
    rows: RenderedRows
    sampler: TinkerSampler

    async def row(self, row: int) -> RowResult:
        """Return the loss and the rewards of one row.

        Raises:
            RuntimeFault: The engine or the user's own reward failed.
        """
        # The loss first: its sequence begins with the prompt, which the engine can then reuse.
        examples = self.rows.examples.get(row, ())
        losses = [await self.sampler.loss(example) for example in examples]
        result: dict[str, Any] = {
            "loss": sum(losses) if losses else None,
            "tokens": sum(int(example.trained.sum()) for example in examples),
        }
        if row in self.rows.prompts:
            result |= await self._rewards(row)
        return RowResult(model=self.number, row=row, **result)

    async def _rewards(self, row: int) -> dict[str, Any]:
        config = self.run.config
        if self.run.scored is None or config.max_tokens is None or config.temperature is None:
            raise JobFailed("The reward of the evaluation is incomplete", code="config")
        recipe, environment = self.run.scored
        rollouts = Rollouts(
            self.rows.rendering,
            recipe,
            SamplingParams(
                config.max_tokens, config.temperature, self.rows.rendering.stops(config.stop)
            ),
            config.max_sequence_length,
            environment,
            config.max_turns or 1,
            config.seed,
            config.stop,
        )
        # The same seed for every model: differences come from the weights.
        group = await rollouts.group(
            self.rows.prompts[row], self.sampler, config.samples or 1, f"eval/{row}"
        )
        return {
            "rewards": group.rewards,
            "completions": [rollout.answer for rollout in group.rollouts],
            "truncated": sum(rollout.truncated for rollout in group.rollouts),
            "sampled_tokens": sum(rollout.sampled_tokens for rollout in group.rollouts),
            "errors": sum(rollout.score.error is not None for rollout in group.rollouts),
        }


def _metrics(number: int, figures: Mapping[str, Any]) -> dict[str, float]:
    """Return a model's figures as metrics of the job."""
    return {
        f"model_{number + 1}/{name}": found["value"]
        for name in ("loss", "reward")
        if (found := figures.get(name)) is not None
    }
