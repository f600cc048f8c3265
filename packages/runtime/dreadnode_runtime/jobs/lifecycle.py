"""What every kind of job has in common: its record, its beginning, and its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dreadnode_runtime.backend.trainer import Export, Saved, Trainer
from dreadnode_runtime.control.api import Dataset, Service
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.rendering import Rendering, load_rendering
from dreadnode_runtime.jobs.config import TrainingConfig
from dreadnode_runtime.jobs.cost import list_cost
from dreadnode_runtime.jobs.model_card import Card

ADAPTER = "adapter"
"""Folder of the last weights, among the job's files."""
BEST = "best"
"""Folder of the weights of the best evaluation, where those are not the last."""
OpenTrainer = Callable[..., AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """What of a job's record its runtime needs."""

    id: str
    name: str | None
    trainer_type: str
    model: str
    trained_model: str
    rehearsal: bool
    config: dict[str, Any]
    metrics: dict[str, Any]
    artifacts: dict[str, Any]

    @classmethod
    def read(cls, record: dict[str, Any]) -> "Job":
        """Take what is needed out of the API's RECORD."""
        return cls(
            id=record["id"],
            name=record.get("name"),
            trainer_type=record["trainer_type"],
            model=record["model"],
            trained_model=record.get("trained_model") or record["model"],
            rehearsal=bool(record.get("rehearsal")),
            config=record["config"],
            metrics=record.get("metrics") or {},
            artifacts=record.get("artifacts") or {},
        )

    @property
    def subject(self) -> str:
        """What is trained, in words that cannot be mistaken."""
        if not self.rehearsal:
            return self.model
        return f"the stand-in {self.trained_model} in place of {self.model}"


@dataclass(slots=True)
class Outcome:
    """How far training came.

    Attributes:
        step: Optimizer steps done in all.
        saved_at: Step of the newest checkpoint; 0 when there is none.
        checkpoints: Paths of all checkpoints, oldest first.
        best: Path of the checkpoint of the best evaluation; None when the last weights are it.
        stopped_early: Whether it ended because evaluations no longer got better.
    """

    step: int = 0
    saved_at: int = 0
    checkpoints: list[str] = field(default_factory=list)
    best: str | None = None
    stopped_early: bool = False

    def tell_checkpoint(
        self,
        step: int,
        saved: Saved,
        metrics: Mapping[str, float],
        reporter: Reporter,
        *,
        best: bool = False,
    ) -> None:
        """Add the checkpoint SAVED of STEP, and tell it with its METRICS."""
        path = saved.path
        self.checkpoints.append(path)
        self.saved_at = step
        artifacts: dict[str, Any] = {
            "latest_checkpoint": path,
            "checkpoints": list(self.checkpoints),
        }
        if best:
            self.best = artifacts["best_checkpoint"] = path
        reporter.tell(
            "checkpoint_saved",
            message=f"Saved a checkpoint after step {step}" + (", the best so far" if best else ""),
            data={
                "checkpoint_num": len(self.checkpoints),
                "step": step,
                "bytes": saved.bytes,
                "metrics": dict(metrics),
            },
            artifacts=artifacts,
        )

    def kept(self) -> str:
        """Say which checkpoint there is to go back to."""
        if not self.saved_at:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {self.saved_at} is kept"


def tell_writing(step: int, reporter: Reporter, name: str | None = None) -> str:
    """Tell that the checkpoint of STEP is being saved, and return its name.

    Its path is known when the engine has it; until then it goes by its name.
    """
    name = name or checkpoint_name(step)
    reporter.tell("checkpoint_writing", data={"step": step, "name": name})
    return name


def counted(number: int, thing: str) -> str:
    """Return NUMBER and THING, in the plural where it belongs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after STEP steps."""
    return f"step-{step:06d}"


def step_of_checkpoint(path: str) -> int:
    """Return how many steps the checkpoint at PATH holds.

    Raises:
        ValueError: It is not one of ours.
    """
    prefix, _, step = path.rpartition("/")[2].partition("-")
    if prefix != "step":
        raise ValueError(f"`{path}` does not name a step")
    return int(step)


@dataclass(frozen=True, slots=True)
class Work:
    """A job, and everything that its loop is connected to.

    Attributes:
        service: The API.
        reporter: Tells the API what happens.
        stop: Ends the loop early.
        folder: Where files go; empty at first.
        open_trainer: Makes the trainer; a seam for tests.
    """

    job: Job
    service: Service
    reporter: Reporter
    stop: Stop
    folder: Path
    open_trainer: OpenTrainer

    @asynccontextmanager
    async def trainer(
        self, config: TrainingConfig
    ) -> AsyncIterator[tuple[Any, Rendering, Outcome]]:
        """Open a trainer, new or where an earlier attempt stopped, and load its rendering.

        Yields:
            The trainer, the rendering, and how far training came before.
        """
        job, resume = self.job, self._newest_checkpoint()
        async with self.open_trainer(
            base_model=job.trained_model,
            rank=config.lora_rank,
            seed=config.seed,
            optimizer=config.optimizer(),
            resume=resume,
            metadata={"job": job.id},
        ) as trainer:
            so_far = Outcome()
            if resume is not None and trainer.resumed:
                step = step_of_checkpoint(resume)
                checkpoints = list(job.artifacts.get("checkpoints") or [resume])
                so_far = Outcome(step, step, checkpoints, job.artifacts.get("best_checkpoint"))
            elif resume is not None:
                self.reporter.log(
                    f"The engine no longer has {resume}; starting over", level="warning"
                )
            rendering = await asyncio.to_thread(
                load_rendering,
                job.model,
                rehearsal=job.rehearsal,
                tokenizer=trainer.tokenizer or job.trained_model,
            )
            yield trainer, rendering, so_far

    async def finish(
        self,
        trainer: Trainer,
        rendering: Rendering,
        outcome: Outcome,
        *,
        steps: int,
        metrics: dict[str, Any],
        at_end: Mapping[str, float],
        best_step: int | None,
        artifacts: dict[str, Any],
        datasets: Sequence[Dataset],
        eval_dataset: Dataset | None,
        counts: Counts,
    ) -> None:
        """Save what was trained, store it with the job, and tell the end; or say how it was ended.

        METRICS are those of the job, AT_END those of its last step; BEST_STEP is that of the best
        evaluation, if there was one.
        A process that is to go, or that nobody hears any more, says nothing final.
        """
        stop, reporter, job = self.stop, self.reporter, self.job
        if stop.left_to_another or stop.broken is not None:
            return
        made = {**artifacts, "checkpoints": outcome.checkpoints}
        if outcome.checkpoints:
            made["latest_checkpoint"] = outcome.checkpoints[-1]
        cost = None if job.rehearsal else list_cost(job.model, metrics)
        if cost is not None and cost.dollars is not None:
            metrics = {**metrics, "cost/list_usd": round(cost.dollars, 6)}
        data: dict[str, Any] = {"step": outcome.step}
        message = f"Trained {counted(outcome.step, 'step')}"
        message += ", and stopped early" if outcome.stopped_early else ""
        if stop.cancelled:
            message = f"Cancelled after step {outcome.step} of {steps}"
            data["cancelled"] = True
        else:
            reporter.phase("saving")
            tell_writing(outcome.step, reporter, "final")
            export = await trainer.export("final", self.folder / ADAPTER)
            data |= {"bytes": export.state.bytes, "sampler_bytes": export.sampler.bytes}
            data["metrics"] = dict(at_end)
            card = Card(
                job_id=job.id,
                name=job.name,
                trainer_type=job.trainer_type,
                model=job.model,
                trained_model=job.trained_model,
                rehearsal=job.rehearsal,
                renderer=rendering.name,
                writer=rendering.source,
                format_notes=rendering.notes,
                datasets=datasets,
                eval_dataset=eval_dataset,
                counts=counts,
                config=job.config,
                metrics=metrics,
            )
            await self._store(export, card)
            if best_step == outcome.step:
                made["best_checkpoint"] = export.state.path
            elif outcome.best is not None:
                best = await trainer.export("best", self.folder / BEST, outcome.best)
                await self._store(best, replace(card, step=step_of_checkpoint(outcome.best)))
                made |= {"best_checkpoint": outcome.best, "best_adapter": f"{BEST}/"}
            made |= {
                "checkpoints": [*outcome.checkpoints, export.state.path],
                "latest_checkpoint": export.state.path,
                "sampler_checkpoint": export.sampler.path,
                "adapter": f"{ADAPTER}/",
            }
        reporter.tell("training_end", message=message, metrics=metrics, data=data, artifacts=made)

    def tell_counts(
        self, counts: Counts, max_length: int, about: str = "", lost: str = "cut at their end"
    ) -> None:
        """Warn of every row that was left out or cut."""
        for warning in counts.warnings():
            self.reporter.log(about + warning, level="warning")
        if counts.truncated:
            self.reporter.log(
                f"{about}{counts.truncated} rows are longer than {max_length} tokens "
                f"and were {lost}",
                level="warning",
            )

    def tell_format(self, rendering: Rendering) -> None:
        """Warn of what is special about the chat format, and how it differs from the template."""
        for note in rendering.notes:
            self.reporter.log(f"Chat format: {note}", level="warning")

    async def _store(self, export: Export, card: Card) -> None:
        """Write CARD beside the adapter, and store both with the job."""
        (export.adapter / "README.md").write_text(card.text(), encoding="utf-8")
        for file in sorted(export.adapter.iterdir()):
            await self.service.upload(f"{export.adapter.name}/{file.name}", file)

    def _newest_checkpoint(self) -> str | None:
        """Return the path of the newest checkpoint that says which step it is of."""
        path = self.job.artifacts.get("latest_checkpoint")
        try:
            return path if isinstance(path, str) and step_of_checkpoint(path) else None
        except ValueError:
            return None
