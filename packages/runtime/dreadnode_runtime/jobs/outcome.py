"""How far a training came: its step, its checkpoints with their reports, and its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dreadnode_runtime.backend.trainer import Saved
from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.control.events import Reporter
from dreadnode_runtime.data.counts import Counts


@dataclass(slots=True)
class Outcome:
    """The state of a training, updated by its loop.

    Attributes:
        step: Optimizer steps done in total.
        saved_at: Step of the newest checkpoint; 0 without a checkpoint.
        checkpoints: Paths of all checkpoints, oldest first.
        best: Path of the checkpoint with the best evaluation; None if the last weights are the
            best.
        stopped_early: Whether early stopping ended the training.
    """

    step: int = 0
    saved_at: int = 0
    checkpoints: list[str] = field(default_factory=list)
    best: str | None = None
    stopped_early: bool = False

    def report_checkpoint(
        self,
        step: int,
        saved: Saved,
        metrics: Mapping[str, float],
        reporter: Reporter,
        *,
        best: bool = False,
    ) -> None:
        """Add the checkpoint SAVED of STEP, and report it with the METRICS of its step."""
        path = saved.path
        self.checkpoints.append(path)
        self.saved_at = step
        artifacts: dict[str, Any] = {
            "latest_checkpoint": path,
            "checkpoints": list(self.checkpoints),
        }
        if best:
            self.best = artifacts["best_checkpoint"] = path
        reporter.report(
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

    def newest_checkpoint(self) -> str:
        """Return a sentence part about the newest checkpoint, for error messages."""
        if not self.saved_at:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {self.saved_at} is kept"


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a loop, for the job's final report.

    Attributes:
        steps: Total number of steps that the job asked for.
        metrics: The job's final metrics.
        last_step_metrics: Metrics of the last step.
        best_step: Step of the best evaluation; None without an evaluation.
        artifacts: Artifacts besides the checkpoints.
        datasets: Training data.
        eval_dataset: Evaluation data, if any.
        counts: Row counts of the training data.
    """

    steps: int
    metrics: dict[str, Any]
    last_step_metrics: Mapping[str, float]
    best_step: int | None
    artifacts: dict[str, Any]
    datasets: Sequence[Dataset]
    eval_dataset: Dataset | None
    counts: Counts


def report_checkpoint_start(step: int, reporter: Reporter, name: str | None = None) -> str:
    """Report that the checkpoint of STEP is being saved, and return its name.

    The engine assigns the path when it has saved the checkpoint.
    """
    name = name or checkpoint_name(step)
    reporter.report("checkpoint_writing", data={"step": step, "name": name})
    return name


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after STEP steps."""
    return f"step-{step:06d}"


def step_of_checkpoint(path: str) -> int:
    """Return the step of the checkpoint at PATH.

    Raises:
        ValueError: Its name is not one of `checkpoint_name`.
    """
    prefix, _, step = path.rpartition("/")[2].partition("-")
    if prefix != "step":
        raise ValueError(f"`{path}` does not name a step")
    return int(step)


def plural(count: int, noun: str) -> str:
    """Return COUNT and NOUN, in the plural unless COUNT is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
