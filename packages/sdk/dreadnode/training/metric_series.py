"""The metric history of a job as columns: pure functions of what the API returns as `metrics`.

A metric of an optimizer step has one value for each entry of `steps`; a metric of an evaluation,
for each entry of `eval/steps`. Single values, which have no history, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

STEPS, EVAL_STEPS = "steps", "eval/steps"
HISTORY = "_history"
"""What the final event appends to the names of evaluation metrics that have a history."""


class Series(NamedTuple):
    """The values of one metric at the steps that have one."""

    steps: Sequence[float]
    values: Sequence[float]


def metric_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics that have a history."""
    return [
        name
        for name, values in metrics.items()
        if isinstance(values, list) and name not in (STEPS, EVAL_STEPS)
    ]


def find_metric(metrics: Mapping[str, Any], name: str) -> str:
    """Return the full name of a metric; `loss` means `train/loss`.

    Raises:
        ValueError: No metric with a history has this name.
    """
    known = metric_names(metrics)
    for candidate in (name, f"{name}{HISTORY}", f"train/{name}", f"eval/{name}"):
        if candidate in known:
            return candidate
    found = f"; it has {', '.join(f'`{each}`' for each in known)}" if known else " yet"
    raise ValueError(f"the job has no history of the metric `{name}`{found}")


def metric_series(metrics: Mapping[str, Any], name: str) -> Series:
    """Return the finite values of a metric by step; of several at one step, the last."""
    by_step = _by_step(metrics, name)
    finite = {step: value for step, value in by_step.items() if value is not None}
    return Series(list(finite), list(finite.values()))


def metrics_frame(metrics: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return all metrics as columns of one length, with None where a step has no value."""
    columns = {name: _by_step(metrics, name) for name in metric_names(metrics)}
    steps = sorted({step for column in columns.values() for step in column})
    frame: dict[str, list[Any]] = {"step": steps}
    return frame | {name: [column.get(step) for step in steps] for name, column in columns.items()}


def smoothed(series: Series, window: int) -> Series:
    """Return the mean of the last WINDOW values at each step; of fewer at the start."""
    if window <= 1:
        return series
    values = [
        fmean(series.values[max(at - window + 1, 0) : at + 1]) for at in range(len(series.values))
    ]
    return Series(series.steps, values)


def thinned(series: Series, columns: int) -> Series:
    """Return at most two values for each of COLUMNS, which keep each minimum and maximum."""
    if len(series.values) <= 2 * columns:
        return series
    size = math.ceil(len(series.values) / columns)
    kept: list[int] = []
    value = series.values.__getitem__
    for start in range(0, len(series.values), size):
        places = range(start, min(start + size, len(series.values)))
        kept += sorted({min(places, key=value), max(places, key=value)})
    return Series([series.steps[at] for at in kept], [series.values[at] for at in kept])


def _by_step(metrics: Mapping[str, Any], name: str) -> dict[float, float | None]:
    axis = metrics.get(EVAL_STEPS if name.startswith("eval/") else STEPS)
    if not isinstance(axis, list):
        return {}
    pairs = zip(map(_number, axis), map(_number, metrics[name]), strict=False)
    by_step = {step: value for step, value in pairs if step is not None}
    return dict(sorted(by_step.items()))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
