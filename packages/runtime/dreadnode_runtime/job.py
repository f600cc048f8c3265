"""One job from its record to its end: fetch, render, train, save, tell."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreadnode_runtime.card import Card
from dreadnode_runtime.config import SftConfig, sft_config
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.history import History
from dreadnode_runtime.prepare import Counts, prepare
from dreadnode_runtime.rendering import Example, Rendering, load_rendering
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.service import Dataset, Service
from dreadnode_runtime.sft import Plan, step_of_checkpoint, train
from dreadnode_runtime.tinker_trainer import tinker_trainer
from dreadnode_runtime.trainer import Export, Trainer

ADAPTER = "adapter"
"""Folder of the last weights, among the job's files."""
BEST = "best"
"""Folder of the weights of the best evaluation, where those are not the last."""
OpenTrainer = Callable[..., AbstractAsyncContextManager[Trainer]]


@dataclass(frozen=True, slots=True)
class Job:
    """What of a job's record its runtime needs."""

    id: str
    name: str | None
    model: str
    trained_model: str
    rehearsal: bool
    config: dict[str, Any]
    metrics: dict[str, Any]
    artifacts: dict[str, Any]

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Job":
        """Take what is needed out of the API's RECORD.

        Raises:
            JobFailed: There is no loop here for it.
        """
        if record["trainer_type"] != "sft":
            raise JobFailed(f"There is no loop for {record['trainer_type']} here", code="config")
        return cls(
            id=record["id"],
            name=record.get("name"),
            model=record["model"],
            trained_model=record.get("trained_model") or record["model"],
            rehearsal=bool(record.get("rehearsal")),
            config=record["config"],
            metrics=record.get("metrics") or {},
            artifacts=record.get("artifacts") or {},
        )

    def checkpoint(self) -> str | None:
        """Return the path of the newest checkpoint that says which step it is of."""
        path = self.artifacts.get("latest_checkpoint")
        try:
            return path if isinstance(path, str) and step_of_checkpoint(path) else None
        except ValueError:
            return None


async def run_job(
    service: Service,
    reporter: Reporter,
    stop: Stop,
    folder: Path,
    open_trainer: OpenTrainer = tinker_trainer,
) -> None:
    """Train the sandbox's job to its end, or to where STOP ends it, and tell how it ended.

    Args:
        service: The API.
        reporter: Tells the API what happens.
        stop: Ends the loop early.
        folder: Where files go; empty at first.
        open_trainer: Makes the trainer; a seam for tests.

    Raises:
        RuntimeFault: It cannot go on; whose fault it is, is the class.
    """
    job = Job.read(await service.job())
    config = sft_config(job.config)
    reporter.phase("starting")
    dataset = await service.dataset(config.dataset_ref, folder)
    eval_dataset = None
    if config.eval_dataset_ref is not None:
        eval_dataset = await service.dataset(config.eval_dataset_ref, folder)
    resume = job.checkpoint()
    async with open_trainer(
        base_model=job.trained_model,
        rank=config.lora_rank,
        seed=config.seed,
        optimizer=config.optimizer(),
        resume=resume,
        metadata={"job": job.id},
    ) as trainer:
        if resume is not None and not trainer.resumed:
            reporter.log(f"The engine no longer has {resume}; starting over", level="warning")
        rendering = await asyncio.to_thread(
            load_rendering,
            job.model,
            rehearsal=job.rehearsal,
            tokenizer=trainer.tokenizer or job.trained_model,
        )
        rows, counts = await asyncio.to_thread(_rendered, dataset, rendering, config)
        eval_rows: list[list[Example]] = []
        if eval_dataset is not None:
            eval_rows, eval_counts = await asyncio.to_thread(
                _rendered, eval_dataset, rendering, config
            )
            _tell_counts(reporter, eval_counts, config, "Evaluation data: ")
        plan = Plan(config, rows, config.total_steps(len(rows)), eval_rows)
        history = History()
        if resume is not None and trainer.resumed:
            start = step_of_checkpoint(resume)
            plan = replace(
                plan,
                start=start,
                checkpoints=job.artifacts.get("checkpoints") or [resume],
                best=job.artifacts.get("best_checkpoint"),
            )
            history = History.told(
                job.metrics,
                start,
                lambda step: config.rate(step, plan.steps),
                config.early_stopping_min_delta,
            )
        _tell_start(reporter, job, rendering, counts, plan)
        _tell_counts(reporter, counts, config)

        outcome = await train(plan, trainer, reporter, stop, history)
        metrics = history.final_metrics(
            rows=len(rows),
            rows_per_step=config.rows_per_step(),
            accumulation=config.gradient_accumulation_steps,
            eval_rows=len(eval_rows),
        )
        if stop.terminated or stop.broken is not None:
            return
        made: dict[str, Any] = {"checkpoints": outcome.checkpoints, "dataset": dataset.name}
        if eval_dataset is not None:
            made["eval_dataset"] = eval_dataset.name
        if outcome.checkpoints:
            made["latest_checkpoint"] = outcome.checkpoints[-1]
        if stop.cancelled:
            message = f"Cancelled after step {outcome.step} of {plan.steps}"
            data = {"cancelled": True, "step": outcome.step}
            reporter.tell(
                "training_end", message=message, metrics=metrics, data=data, artifacts=made
            )
            return
        reporter.phase("saving")
        export = await trainer.export("final", folder / ADAPTER)
        card = Card(
            job_id=job.id,
            name=job.name,
            model=job.model,
            trained_model=job.trained_model,
            rehearsal=job.rehearsal,
            renderer=rendering.name,
            dataset=dataset,
            counts=counts,
            config=job.config,
            metrics=metrics,
        )
        await _store(service, export, card)
        if outcome.best is not None:
            best = await trainer.export("best", folder / BEST, outcome.best)
            await _store(service, best, replace(card, step=step_of_checkpoint(outcome.best)))
            made |= {"best_checkpoint": outcome.best, "best_adapter": f"{BEST}/"}
        made |= {
            "checkpoints": [*outcome.checkpoints, export.state],
            "latest_checkpoint": export.state,
            "sampler_checkpoint": export.sampler,
            "adapter": f"{ADAPTER}/",
        }
        reporter.tell(
            "training_end",
            message=f"Trained {outcome.step} steps" + (", early" if outcome.stopped_early else ""),
            metrics=metrics,
            data={"step": outcome.step},
            artifacts=made,
        )


async def _store(service: Service, export: Export, card: Card) -> None:
    """Write CARD beside the adapter, and store both with the job."""
    (export.adapter / "README.md").write_text(card.text(), encoding="utf-8")
    for file in sorted(export.adapter.iterdir()):
        await service.upload(f"{export.adapter.name}/{file.name}", file)


def _rendered(
    dataset: Dataset, rendering: Rendering, config: SftConfig
) -> tuple[list[list[Example]], Counts]:
    rows: list[list[Example]] = []
    counts = prepare(
        dataset.path,
        rendering,
        max_length=config.max_sequence_length,
        train_on=config.train_on,
        system_prompt=config.system_prompt,
        strict=config.strict,
        keep=rows.append,
    )
    return rows, counts


def _tell_start(
    reporter: Reporter, job: Job, rendering: Rendering, counts: Counts, plan: Plan
) -> None:
    what = f"the stand-in {job.trained_model}, not {job.model}" if job.rehearsal else job.model
    resumed = f" from step {plan.start}" if plan.start else ""
    reporter.tell(
        "training_start",
        message=(
            f"Training {what}{resumed}: {plan.steps} steps on "
            f"{counts.usable} of {counts.rows} rows, "
            f"{counts.tokens} tokens of which {counts.trained_tokens} carry loss, "
            f"written by {rendering.name}"
        ),
        data={
            "trainer_type": "sft",
            "backend": "tinker",
            "renderer": rendering.name,
            "start": plan.start,
            "steps": plan.steps,
        },
    )


def _tell_counts(reporter: Reporter, counts: Counts, config: SftConfig, about: str = "") -> None:
    for warning in counts.warnings():
        reporter.log(about + warning, level="warning")
    if counts.truncated:
        reporter.log(
            f"{about}{counts.truncated} rows are longer than {config.max_sequence_length} tokens "
            "and were cut at their end",
            level="warning",
        )
