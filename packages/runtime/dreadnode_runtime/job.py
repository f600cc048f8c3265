"""One job from its record to its end: fetch, render, train, save, tell."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode_runtime.card import Card
from dreadnode_runtime.config import SftConfig, sft_config
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.prepare import Counts, prepare
from dreadnode_runtime.rendering import TRAIN_ON, Example, Rendering, load_rendering
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.service import Service
from dreadnode_runtime.sft import (
    History,
    Plan,
    final_metrics,
    step_of_checkpoint,
    train,
)
from dreadnode_runtime.tinker_trainer import tinker_trainer
from dreadnode_runtime.trainer import Trainer

ADAPTER = "adapter"
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
    dataset = await service.dataset(config.dataset_ref.name, config.dataset_ref.version, folder)
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
        rows, counts = await asyncio.to_thread(_rendered, dataset.path, rendering, config)
        plan = Plan(config, rows, steps=config.total_steps(len(rows)))
        history = History()
        if resume is not None and trainer.resumed:
            start = step_of_checkpoint(resume)
            earlier = job.artifacts.get("checkpoints") or [resume]
            plan = Plan(config, rows, plan.steps, start=start, checkpoints=earlier)
            history = History.told(job.metrics, start, config.learning_rate)
        _tell_start(reporter, job, rendering, counts, plan)

        outcome = await train(plan, trainer, reporter, stop, history)
        metrics = final_metrics(plan, outcome, history)
        if stop.terminated or stop.broken is not None:
            return
        made: dict[str, Any] = {"checkpoints": outcome.checkpoints, "dataset": dataset.name}
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
        (export.adapter / "README.md").write_text(card.text(), encoding="utf-8")
        for file in sorted(export.adapter.iterdir()):
            await service.upload(f"{ADAPTER}/{file.name}", file)
        made |= {
            "checkpoints": [*outcome.checkpoints, export.state],
            "latest_checkpoint": export.state,
            "sampler_checkpoint": export.sampler,
            "adapter": f"{ADAPTER}/",
        }
        reporter.tell(
            "training_end",
            message=f"Trained {outcome.step} steps",
            metrics=metrics,
            data={"step": outcome.step},
            artifacts=made,
        )


def _rendered(
    path: Path, rendering: Rendering, config: SftConfig
) -> tuple[list[list[Example]], Counts]:
    rows: list[list[Example]] = []
    counts = prepare(
        path,
        rendering,
        max_length=config.max_sequence_length,
        train_on=TRAIN_ON[0],
        system_prompt=config.system_prompt,
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
    for warning in counts.warnings():
        reporter.log(warning, level="warning")
    if counts.truncated:
        limit = plan.config.max_sequence_length
        reporter.log(
            f"{counts.truncated} rows are longer than {limit} tokens and were cut at their end",
            level="warning",
        )
