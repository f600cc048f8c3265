"""The curves of a chart: one metric of several jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dreadnode.training.metric_series import Series, find_metric, metric_series, smoothed

if TYPE_CHECKING:
    from dreadnode.training.jobs import TrainingJob


class Curve(NamedTuple):
    """The values of a metric of one job.

    Attributes:
        job_id: The job.
        job: The job's name and the start of its id; empty if there is only one job.
        metric: The full name of the metric.
        series: The values.
        is_evaluation: Whether the values are far apart, so that each one is shown as a point.
    """

    job_id: str
    job: str
    metric: str
    series: Series
    is_evaluation: bool = False

    @property
    def label(self) -> str:
        """The job and the metric."""
        return f"{self.job}: {self.metric}" if self.job else self.metric


def default_metrics(job: TrainingJob) -> tuple[str, str]:
    """Return the metrics of steps and of evaluations that tell whether a job learns."""
    kind = "reward" if job.trainer_type == "rl" else "loss"
    return f"train/{kind}", f"eval/{kind}"


def curves(jobs: Sequence[TrainingJob], metric: str | None, smooth: int = 1) -> list[Curve]:
    """Return a metric of each of JOBS; if it is None, the loss or the reward with evaluations.

    Raises:
        ValueError: A job has no history of the metric.
    """
    found = []
    for job in jobs:
        label = f"{job.name} ({job.id[:8]})" if job.name else job.id[:8]
        trained, evaluated = default_metrics(job)
        name = _find(job, metric or trained)
        series = smoothed(metric_series(job.metrics, name), smooth)
        found.append(Curve(job.id, label, name, series, name.startswith("eval/")))
        if metric is None and f"{evaluated}_history" in job.metrics:
            history = metric_series(job.metrics, f"{evaluated}_history")
            found.append(Curve(job.id, label, evaluated, history, is_evaluation=True))
    return found


def _find(job: TrainingJob, name: str) -> str:
    try:
        return find_metric(job.metrics, name)
    except ValueError as error:
        raise ValueError(f"job {job.id}: {error}") from None
