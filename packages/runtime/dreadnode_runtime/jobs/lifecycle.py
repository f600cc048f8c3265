"""The start and the end that all kinds of jobs share."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreadnode_runtime.backend.adapter import base_dtype
from dreadnode_runtime.backend.trainer import Export, StartingWeights, Trainer
from dreadnode_runtime.control.api import MODEL_KEY, Dataset, JobApi
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.jobs.config import DatasetRef, TrainingConfig
from dreadnode_runtime.jobs.cost import Ledger
from dreadnode_runtime.jobs.model_card import Card
from dreadnode_runtime.jobs.outcome import (
    Outcome,
    Results,
    plural,
    report_checkpoint_start,
    step_of_checkpoint,
)
from dreadnode_runtime.jobs.row_files import TRAJECTORIES, RowFile

ADAPTER = "adapter"
"""Folder of the last weights among the job's files."""
BEST = "best"
"""Folder of the best evaluation's weights, if those are not the last."""
START = "from_adapter"
"""The job's artifact that names the weights it starts from."""
OpenTrainer = Callable[..., AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job with everything that its loop needs.

    Attributes:
        api: The API.
        reporter: Sends progress events.
        stop: Ends the loop early.
        folder: Working folder, empty at first.
        open_trainer: Opens the trainer; tests pass a fake.
        ledger: Tokens and cost of the job so far.
    """

    job: Job
    api: JobApi
    reporter: Reporter
    stop: Stop
    folder: Path
    open_trainer: OpenTrainer
    ledger: Ledger

    async def dataset(self, ref: DatasetRef, split: str | None) -> Dataset:
        """Download the rows of a dataset's split into the working folder."""
        return await self.api.dataset(ref.name, ref.version, self.folder, split)

    async def training_data(
        self, config: TrainingConfig, ref: DatasetRef | None, split: str | None, field: str
    ) -> tuple[list[Dataset], list[RowFile], Dataset | None]:
        """Download the dataset REF, which FIELD names, and those of trajectories and evaluation.

        Returns:
            The training datasets, the file of rows of each, and the evaluation dataset.
        """
        refs = [(ref, split, field)] if ref is not None else []
        refs += [(each, None, TRAJECTORIES) for each in config.trajectory_dataset_refs]
        datasets = [await self.dataset(each, of_split) for each, of_split, _ in refs]
        files = [
            RowFile(dataset.path, dataset.name if len(refs) > 1 else "", of_field)
            for dataset, (_, _, of_field) in zip(datasets, refs, strict=True)
        ]
        evaluated = None
        if config.eval_dataset_ref is not None:
            evaluated = await self.dataset(config.eval_dataset_ref, config.eval_split)
        return datasets, files, evaluated

    @asynccontextmanager
    async def trainer(
        self, config: TrainingConfig
    ) -> AsyncIterator[tuple[Any, Rendering, Outcome]]:
        """Open a trainer, new or from the newest checkpoint, and load the rendering.

        Yields:
            The trainer, the rendering, and the outcome of earlier attempts.
        """
        job, checkpoint = self.job, self._newest_checkpoint()
        async with self.open_trainer(
            base_model=job.trained_model,
            adapter=config.adapter(),
            optimizer=config.optimizer(),
            resume=checkpoint,
            start=self._starting_weights(),
            metadata={"job": job.id},
            meter=self.ledger.meter,
        ) as trainer:
            outcome = Outcome()
            if checkpoint is not None and trainer.resumed:
                step = step_of_checkpoint(checkpoint)
                checkpoints = list(job.artifacts.get("checkpoints") or [checkpoint])
                outcome = Outcome(step, step, checkpoints, job.artifacts.get("best_checkpoint"))
            elif checkpoint is not None:
                self.reporter.log(
                    f"The engine no longer has {checkpoint}; training starts from step 0",
                    level="warning",
                )
            if not trainer.resumed:
                self._report_start(config)
            rendering = await asyncio.to_thread(
                load_rendering,
                job.model,
                rehearsal=job.rehearsal,
                tokenizer=trainer.tokenizer or job.trained_model,
                chosen=config.tokenizer,
            )
            yield trainer, rendering, outcome

    async def finish(
        self, trainer: Trainer, rendering: Rendering, outcome: Outcome, results: Results
    ) -> dict[str, Any] | None:
        """Save and store what was trained, and return the job's final event.

        None if another attempt resumes the job, or if events can no longer be delivered.
        """
        stop, job = self.stop, self.job
        if stop.leave_to_next_attempt or stop.delivery_error is not None:
            return None
        artifacts = {**results.artifacts, "checkpoints": outcome.checkpoints}
        if outcome.checkpoints:
            artifacts["latest_checkpoint"] = outcome.checkpoints[-1]
        metrics, usd = results.metrics, self.ledger.usd
        if usd is not None and not job.rehearsal:
            metrics = {**metrics, "cost/list_usd": round(float(usd), 6)}
        data: dict[str, Any] = {"step": outcome.step}
        if stop.cancelled:
            message = f"Cancelled after step {outcome.step} of {results.steps}"
            data["cancelled"] = True
        else:
            message = f"Trained {plural(outcome.step, 'step')}"
            message += ", and stopped early" if outcome.stopped_early else ""
            if stop.over_budget:
                message = f"Stopped by the budget after step {outcome.step} of {results.steps}"
                data["stopped_by"] = "budget"
            data["metrics"] = dict(results.last_step_metrics)
            card = Card(job, rendering, replace(results, metrics=metrics), self.ledger)
            artifacts |= await self._export(trainer, outcome, results.best_step, card, data)
        return {"message": message, "metrics": metrics, "data": data, "artifacts": artifacts}

    def report_counts(self, counts: Counts, max_length: int, prefix: str = "") -> None:
        """Log a warning about rows that were dropped or cut."""
        for warning in counts.warnings():
            self.reporter.log(prefix + warning, level="warning")
        if counts.truncated:
            self.reporter.log(
                f"{prefix}{counts.truncated} rows are longer than {max_length} tokens "
                "and were cut at their end",
                level="warning",
            )

    def report_format(self, rendering: Rendering) -> None:
        """Log a warning about what is special about the chat format."""
        for note in rendering.notes:
            self.reporter.log(f"Chat format: {note}", level="warning")

    async def _export(
        self,
        trainer: Trainer,
        outcome: Outcome,
        best_step: int | None,
        card: Card,
        data: dict[str, Any],
    ) -> dict[str, Any]:
        """Export the last and the best weights, add their sizes to DATA, and return artifacts."""
        self.reporter.phase("saving")
        resume = outcome.checkpoints[-1] if self.stop.over_budget and outcome.checkpoints else None
        if resume is None:
            report_checkpoint_start(outcome.step, self.reporter, "final")
        # The weights of a job that the budget stopped are saved already, as a checkpoint that names
        # its step, from which a retry resumes.
        export = await trainer.export("final", self.folder / ADAPTER, resume)
        data |= {"bytes": export.state.bytes, "sampler_bytes": export.sampler.bytes}
        await self._store(export, card)
        artifacts: dict[str, Any] = {
            "checkpoints": [*outcome.checkpoints, *([] if resume else [export.state.path])],
            "latest_checkpoint": export.state.path,
            "sampler_checkpoint": export.sampler.path,
            "adapter": f"{ADAPTER}/",
        }
        if best_step == outcome.step:
            artifacts["best_checkpoint"] = export.state.path
        elif outcome.best is not None:
            best = await trainer.export("best", self.folder / BEST, outcome.best)
            await self._store(best, replace(card, step=step_of_checkpoint(outcome.best)))
            artifacts |= {"best_checkpoint": outcome.best, "best_adapter": f"{BEST}/"}
        return artifacts

    async def _store(self, export: Export, card: Card) -> None:
        """Write CARD into the adapter's folder, and upload the folder's files to the job."""
        card = replace(card, base_dtype=base_dtype(export.adapter), adapter_notes=export.notes)
        for note in export.notes:
            self.reporter.log(note, level="warning")
        (export.adapter / "README.md").write_text(card.text(), encoding="utf-8")
        for file in sorted(export.adapter.iterdir()):
            await self.api.upload(f"{export.adapter.name}/{file.name}", file)

    def _starting_weights(self) -> StartingWeights | None:
        """Return the weights that the job starts from, if it does not start with a new adapter."""
        found = self.job.artifacts.get(START)
        if not isinstance(found, dict):
            return None
        return StartingWeights(str(found["path"]), os.environ.get(f"{MODEL_KEY}0"))

    def _report_start(self, config: TrainingConfig) -> None:
        """Log what a job with `from_adapter` starts from."""
        if config.from_adapter is None:
            return
        if self.job.artifacts.get(START):
            self.reporter.log(f"Training starts from the weights of {config.from_adapter}")
            return
        self.reporter.log(
            f"The rehearsal starts with a new adapter of rank {config.lora_rank}: "
            f"{config.from_adapter} is for {self.job.model}, and the stand-in has other shapes",
            level="warning",
        )

    def _newest_checkpoint(self) -> str | None:
        """Return the path of the newest checkpoint, if its name says its step."""
        path = self.job.artifacts.get("latest_checkpoint")
        try:
            return path if isinstance(path, str) and step_of_checkpoint(path) else None
        except ValueError:
            return None
