"""Weights & Biases, MLflow and TensorBoard, each through its own library.

A library is imported when a job uses it. Each reads its server and its API key from its usual
environment variables.
"""

import contextlib
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
MAX_PARAMETER_LENGTH = 500
"""Characters of a setting that trackers get; a longer one is only in the job's record."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run in a tracker.

    Attributes:
        job_id: Identifies the run; all attempts of a job share it.
        name: Display name.
        project: Name of the project, experiment or folder.
        parameters: Settings and other constants.
        start: Steps done before this attempt.
    """

    job_id: str
    name: str
    project: str
    parameters: Mapping[str, str]
    start: int


class Tracker(Protocol):
    """Receives the metrics of a run. Its methods may block and raise any exception."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log METRICS of STEP."""
        ...

    def close(self, end: End) -> None:
        """Send the remaining metrics, and set how the run ended."""
        ...


def missing(names: tuple[Name, ...]) -> Name | None:
    """Return the first of NAMES whose library is not installed."""
    return next((name for name in names if importlib.util.find_spec(name) is None), None)


def open_tracker(name: Name, run: Run) -> Tracker:
    """Start or resume the run in the tracker called NAME."""
    kinds: dict[Name, Callable[[Run], Tracker]] = {
        "tensorboard": TensorBoard,
        "mlflow": Mlflow,
        "wandb": WeightsAndBiases,
    }
    return kinds[name](run)


class TensorBoard:
    """Event files in one folder for each run."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(os.environ["DREADNODE_TENSORBOARD_DIR"]) / run.project / run.job_id
        # An earlier attempt can have logged steps that this one repeats: hide them. Also in the
        # first attempt, since any later one may have to start over.
        self._writer: Any = SummaryWriter(str(folder), purge_step=run.start + 1, flush_secs=10)
        table = "\n".join(f"| {name} | {value} |" for name, value in run.parameters.items())
        self._writer.add_text("job", f"| | |\n| --- | --- |\n{table}", run.start)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, end: End) -> None:
        """Write the remaining metrics."""
        self._writer.close()


class Mlflow:
    """A run of an experiment, identified by the job's id."""

    def __init__(self, run: Run) -> None:
        # By default it reports its use to its developers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Metric, Param

        create_sqlite_tables(get_tracking_uri(), MlflowClient)
        self._client: Any = MlflowClient()
        self._metric: Any = Metric
        found = self._client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self._client.create_experiment(run.project)
        query = f"tags.`dreadnode.job` = '{run.job_id}'"
        runs = self._client.search_runs([experiment], query, max_results=1)
        if runs:
            self._id = runs[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {"dreadnode.job": run.job_id}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, value) for name, value in run.parameters.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve, in one request."""
        now = int(time.time() * 1000)
        points = [self._metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=points)

    def close(self, end: End) -> None:
        """Set how the run ended."""
        status = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[end]
        self._client.set_terminated(self._id, status)


def create_sqlite_tables(uri: str, client: Callable[[str], Any]) -> None:
    """Create the database of a sqlite URI with all of its tables at once, or not at all.

    MLflow creates the tables in some forty transactions. A process that is killed in between
    leaves a database that MLflow can neither use nor repair, so they are created in another file.
    """
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not uri.startswith("sqlite:///") or (path.exists() and path.stat().st_size):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    for left in path.parent.glob(f".{path.name}.*"):
        # A process that was killed an hour ago does not finish its file.
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - 3600:
                left.unlink()
    try:
        client(f"sqlite:///{new}").search_experiments(max_results=1)
        if path.exists() and not path.stat().st_size:
            new.replace(path)
        else:
            # Unlike a rename, a link never replaces the database of a process that was faster.
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


class WeightsAndBiases:
    """A run with the job's id, which each attempt resumes."""

    def __init__(self, run: Run) -> None:
        # By default it reports its errors to its developers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._teardown: Callable[[], None] = wandb.teardown
        self._run: Any = wandb.init(
            id=run.job_id,
            name=run.name,
            project=run.project,
            config=dict(run.parameters),
            resume="allow",
            settings=wandb.Settings(
                # Metrics and settings only: nothing about the machine, and no output.
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
        # Its own counter only increases; ours goes back when an attempt resumes a checkpoint.
        # Offline, each attempt has a counter of its own, which must continue at our step.
        self._offline = bool(self._run.offline)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric's curve."""
        self._run.log({"step": step, **metrics}, step=step if self._offline else None)

    def close(self, end: End) -> None:
        """Send the remaining metrics, and set how the run ended."""
        self._run.finish(exit_code=0 if end == "completed" else 1)
        # Its service process still writes then, and would be killed with the sandbox.
        self._teardown()
