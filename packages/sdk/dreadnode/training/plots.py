"""Plots of jobs' metrics with matplotlib, which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreadnode.training.curves import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dreadnode.training.jobs import TrainingJob

FORMATS = (".png", ".svg")
MISSING = (
    "images need matplotlib; install it with `pip install matplotlib`, or install this package "
    "with its extra `plot`"
)


def plot(job: TrainingJob, metric: str | None, smooth: int, axes: Axes | None) -> Axes:
    """Draw a metric of one job into AXES, or into a new figure of pyplot."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(MISSING) from error
    if axes is None:
        _, axes = plt.subplots()
    draw(axes, [job], metric, smooth)
    return axes


def save(jobs: Sequence[TrainingJob], metrics: Sequence[str | None], smooth: int, to: Path) -> None:
    """Write a PNG or SVG with one chart for each of METRICS, each with all JOBS.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file cannot be written.
        ValueError: The file is neither PNG nor SVG, or a job has no such metric.
    """
    if to.suffix.lower() not in FORMATS:
        raise ValueError(f"an image is a .png or .svg file, not `{to.name}`")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MISSING) from error
    figure = Figure(figsize=(8, 4.5 * len(metrics)), layout="constrained")
    for number, metric in enumerate(metrics, 1):
        draw(figure.add_subplot(len(metrics), 1, number), jobs, metric, smooth)
    figure.savefig(to, dpi=150)


def draw(axes: Axes, jobs: Sequence[TrainingJob], metric: str | None, smooth: int) -> None:
    """Draw a metric of JOBS into AXES; None draws the loss or the reward with its evaluations."""
    found = curves(jobs, metric, smooth)
    for curve in found:
        # A name is text: neither mathematics, nor left out because it starts with `_`.
        label = "".join(c if c.isprintable() else "?" for c in curve.label)
        axes.plot(
            curve.series.steps,
            curve.series.values,
            label=" " + label.replace("$", r"\$"),
            marker="o" if curve.is_evaluation else None,
            linestyle="--" if curve.is_evaluation else "-",
        )
    axes.set_xlabel("step")
    axes.set_ylabel(found[0].metric)
    axes.legend()
