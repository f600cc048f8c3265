"""Weights & Biases, MLflow and TensorBoard, each through its own library.

A library is imported when a run is followed with it, and its names are nowhere else. All of them
find where to go, and their keys, in the environment, as they do everywhere.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Name = Literal["tensorboard", "mlflow", "wandb"]
End = Literal["completed", "failed", "interrupted"]
TITLES: dict[Name, str] = {
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "Weights & Biases",
}
PACKAGES: dict[Name, str] = {
    "tensorboard": "tensorboard",
    "mlflow": "mlflow-skinny",
    "wandb": "wandb",
}
LONGEST_PARAMETER = 500
"""Characters of a setting that a tracker is told; a longer one is in the job's own record."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is followed.

    Attributes:
        job_id: By which all attempts are one run.
        name: For people.
        project: Or experiment, or folder.
        facts: Settings and what else does not change.
        start: Steps done before this attempt.
    """

    job_id: str
    name: str
    project: str
    facts: Mapping[str, str]
    start: int


class Tracker(Protocol):
    """Takes figures of a run. It may raise anything, and take its time."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take FIGURES of STEP."""
        ...

    def close(self, end: End) -> None:
        """Take note of how the run ended, and send what is left."""
        ...


def missing(names: tuple[Name, ...]) -> Name | None:
    """Return the first of NAMES whose library is not installed here."""
    return next((name for name in names if importlib.util.find_spec(name) is None), None)


def open_tracker(name: Name, run: Run) -> Tracker:
    """Begin, or go on with, the run in the tracker called NAME."""
    kinds: dict[Name, Callable[[Run], Tracker]] = {
        "tensorboard": TensorBoard,
        "mlflow": Mlflow,
        "wandb": WeightsAndBiases,
    }
    return kinds[name](run)


class TensorBoard:
    """Event files in a folder of the run's own."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(os.environ["DREADNODE_TENSORBOARD_DIR"]) / run.project / run.job_id
        # What an attempt told beyond the checkpoint that this one goes on from is told again.
        purged = run.start + 1 if run.start else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purged, flush_secs=10)
        facts = "\n".join(f"| {name} | {value} |" for name, value in run.facts.items())
        self._writer.add_text("job", f"| | |\n| --- | --- |\n{facts}", run.start)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each figure's curve."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, end: End) -> None:
        """Write what is left."""
        self._writer.close()


class Mlflow:
    """A run of an experiment, found again by the job's id."""

    def __init__(self, run: Run) -> None:
        # It reports its own use otherwise, to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client: Any = MlflowClient()
        self._metric: Any = Metric
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        wanted = f"tags.`dreadnode.job` = '{run.job_id}'"
        found = self._client.search_runs([experiment], wanted, max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {"dreadnode.job": run.job_id}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, value) for name, value in run.facts.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each figure's curve, all in one request."""
        now = int(time.time() * 1000)
        points = [self._metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=points)

    def close(self, end: End) -> None:
        """Say how the run ended."""
        status = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[end]
        self._client.set_terminated(self._id, status)


class WeightsAndBiases:
    """A run whose id is the job's, so that every attempt goes on with it."""

    def __init__(self, run: Run) -> None:
        # It reports its own errors otherwise, to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._teardown: Callable[[], None] = wandb.teardown
        self._run: Any = wandb.init(
            id=run.job_id,
            name=run.name,
            project=run.project,
            config=dict(run.facts),
            resume="allow",
            settings=wandb.Settings(
                # Figures and settings, and nothing of the machine or of what is printed.
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                init_timeout=60,
            ),
        )
        # Its own counter only goes up; ours goes back when an attempt goes on from a checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each figure's curve."""
        self._run.log({"step": step, **figures})

    def close(self, end: End) -> None:
        """Send what is left, and say how the run ended."""
        self._run.finish(exit_code=0 if end == "completed" else 1)
        # Its own process still writes then, and would be ended with the sandbox.
        self._teardown()
