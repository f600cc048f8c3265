"""What a live view knows of a job: its newest record, its curves, its pace and its last lines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dreadnode.cli.train.watch import log_line
from dreadnode.training.curves import Curve, default_metrics
from dreadnode.training.jobs import Progress
from dreadnode.training.metric_series import Series, metric_series

if TYPE_CHECKING:
    from dreadnode.training.jobs import JobEvent, LogEntry, TrainingJob

PACE_STEPS = 20
"""Steps over which the throughput is measured."""


@dataclass
class RunState:
    """The state of a run, from a job with its history and the events after it.

    Attributes:
        job: The newest record; without its metrics.
        lines: The last lines of the log.
        lost_at: Since when the server has not responded; None while it does.
        version: Changes with each new value of a curve.
    """

    job: TrainingJob
    lines: deque[str]
    clock: Callable[[], float] = time.monotonic
    lost_at: float | None = None
    version: int = 0
    _points: dict[str, dict[float, float]] = field(default_factory=dict)
    _pace: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=PACE_STEPS))

    @classmethod
    def of(cls, job: TrainingJob, log: Sequence[LogEntry], lines: int) -> RunState:
        """Return the state of JOB, with its last LINES lines of the log."""
        state = cls(job, deque(map(log_line, log), maxlen=lines))
        trained, evaluated = default_metrics(job)
        for name, source in ((trained, trained), (evaluated, f"{evaluated}_history")):
            values = job.metrics.get(source, job.metrics.get(name))
            known = isinstance(values, list)
            series = metric_series({**job.metrics, name: values}, name) if known else Series([], [])
            state._points[name] = dict(zip(*series, strict=True))
        return state

    @property
    def curves(self) -> list[Curve]:
        """The loss or the reward, and its evaluations."""
        trained, _ = self._points
        found = []
        for name, points in self._points.items():
            if points:
                series = Series(*zip(*sorted(points.items()), strict=True))
                found.append(Curve(self.job.id, "", name, series, is_evaluation=name != trained))
        return found

    @property
    def tokens_per_second(self) -> float | None:
        """The throughput over the last steps; None before the second step."""
        return self._rate(2)

    @property
    def seconds_per_step(self) -> float | None:
        """The mean time of the last steps; None before the second step."""
        rate = self._rate(1)
        return 1 / rate if rate else None

    def _rate(self, place: int) -> float | None:
        if len(self._pace) < 2:
            return None
        first, last = self._pace[0], self._pace[-1]
        return (last[place] - first[place]) / max(last[0] - first[0], 1e-9)

    def connected(self, is_connected: bool) -> None:
        """Record that the connection was lost, or is there again."""
        if is_connected:
            self.lost_at = None
        elif self.lost_at is None:
            self.lost_at = self.clock()

    def refresh(self, job: TrainingJob) -> None:
        """Replace the record by a newer one, whose progress may be older than the events."""
        progress, known = job.progress, self.job.progress
        if known is not None and (progress is None or progress.step < known.step):
            progress = known
        self.job = job
        self._update(progress=progress, metrics={})

    def add(self, event: JobEvent) -> None:
        """Add the next event."""
        self.lost_at = None
        if event.message is not None:
            self.lines.append(log_line(event))
        if event.type == "training_start":
            self._restart(event.data.get("start") or 0)
        elif event.type in ("step_complete", "eval_complete"):
            self._measure(event)
        elif event.type == "phase":
            reason = event.data.get("reason")
            self._update(phase=event.data.get("phase"), phase_reason=reason)
        elif event.type == "status":
            self._update(status=event.data.get("status", self.job.status))

    def _update(self, **fields: Any) -> None:
        self.job = self.job.model_copy(update=fields)

    def _restart(self, start: float) -> None:
        """Drop what an earlier attempt measured after the step from which this one starts."""
        for name, points in self._points.items():
            self._points[name] = {step: value for step, value in points.items() if step <= start}
        self._pace.clear()
        self.version += 1

    def _measure(self, event: JobEvent) -> None:
        data, metrics = event.data, event.data.get("metrics") or {}
        self.version += 1
        for name, points in self._points.items():
            if isinstance(metrics.get(name), list):
                series = metric_series(metrics, name)
                points.update(zip(*series, strict=True))
        step, tokens = data.get("step"), data.get("tokens_total")
        if event.type == "step_complete" and isinstance(step, int):
            seconds = event.timestamp.timestamp()
            self._pace.append((seconds, step, tokens if isinstance(tokens, int) else 0))
        known = self.job.progress.model_dump() if self.job.progress else {}
        self._update(progress=Progress.model_validate(known | _progress(data, metrics)))


def _progress(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event says about the progress of its job."""
    names = {"loss": "train/loss", "reward": "train/reward"}
    names |= {"eval_loss": "eval/loss", "eval_reward": "eval/reward"}
    found = {field: _newest(metrics.get(name)) for field, name in names.items()}
    found |= {name: data.get(name) for name in ("step", "steps", "seconds_left")}
    found["tokens"] = data.get("tokens_total")
    return {name: value for name, value in found.items() if value is not None}


def _newest(value: object) -> object:
    newest = value[-1] if isinstance(value, list) and value else value
    return newest if isinstance(newest, int | float) else None
