"""`dn train plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say
from dreadnode.errors import ConfigError, InputError, UnusableFile

if TYPE_CHECKING:
    from dreadnode.training.curves import Curve
    from dreadnode.training.jobs import TrainingJob

ROWS = 12
"""Rows of a chart in a terminal."""


def plot(
    jobs: Annotated[
        list[str],
        Parameter(help="Jobs to compare: ids or the start of them, names, or `last`."),
    ],
    /,
    *,
    metric: Annotated[
        tuple[str, ...],
        Parameter(
            help="Metric to plot, such as `train/loss`; can be given several times. The loss or "
            "the reward with its evaluations if not set."
        ),
    ] = (),
    smooth: Annotated[
        int, Parameter(help="Plot the mean of this many values.", show_default=True)
    ] = 1,
    out: Annotated[
        Path | None, Parameter(help="Write an image instead: a .png or .svg file.")
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Plot metrics of one job, or compare several, in the terminal or as an image.

    With `--json` the values are printed. Images need matplotlib.
    """
    if not jobs:
        raise InputError("name a job, such as `dn train plot last`")
    if smooth < 1:
        raise InputError(f"`--smooth` must be at least 1, not {smooth}")
    with common.client() as client:
        found = [client.get_training_job(client.find_training_job(each)) for each in jobs]
    if out is not None:
        _write(found, metric or (None,), smooth, out)
        return
    from dreadnode.training.curves import curves

    try:
        charts = [curves(found, each, smooth) for each in (metric or (None,))]
    except ValueError as error:
        raise InputError(str(error)) from None
    if common.json:
        common.out.json([_data(curve) for each in charts for curve in each])
        return
    from rich.console import Console

    from dreadnode.cli.charts import chart

    console = Console(highlight=False)
    for each in charts:
        console.print(each[0].metric, style="bold", markup=False)
        console.print(chart(each, width=console.width, height=ROWS), soft_wrap=True)


def _write(
    jobs: Sequence[TrainingJob], metrics: Sequence[str | None], smooth: int, out: Path
) -> None:
    from dreadnode.training.plots import save

    try:
        save(jobs, metrics, smooth, out)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise UnusableFile(f"{out} cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise InputError(str(error)) from None
    say(f"wrote {out}")


def _data(curve: Curve) -> dict[str, object]:
    return {
        "job": curve.job_id,
        "metric": curve.metric,
        "steps": curve.series.steps,
        "values": curve.series.values,
    }
