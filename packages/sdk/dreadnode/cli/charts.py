"""Line charts for a terminal, in braille dots.

plotille sets the dots; the axes here are narrower than its own. Every line has a letter besides
its colour, since colours can be off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from plotille import Canvas
from rich.text import Text

from dreadnode.cli.output import visible
from dreadnode.training.curves import Curve
from dreadnode.training.metric_series import thinned

COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")
MARKS_PER_LINE = 6


class _Area(NamedTuple):
    """The range of steps and values that a chart shows."""

    left: float
    right: float
    bottom: float
    top: float


def chart(lines: Sequence[Curve], *, width: int, height: int) -> Text:
    """Return a chart of LINES that is WIDTH columns wide, with HEIGHT rows and the axis below."""
    lines = [line for line in lines if line.series.values]
    if not lines:
        return Text("no values yet", style="dim")
    area = _area(lines)
    if not isfinite(area.top - area.bottom):
        return Text("the values are too far apart to draw", style="dim")
    labels = {0: area.top, height // 2: (area.top + area.bottom) / 2, height - 1: area.bottom}
    texts = {row: f"{value:.4g}" for row, value in labels.items()}
    gutter = max(map(len, texts.values()))
    columns = max(width - gutter - 2, 10)
    canvas = _canvas(area, columns, height)
    for number, line in enumerate(lines):
        _draw(canvas, line, number, columns, marked=len(lines) > 1)
    rows = Text.from_ansi(canvas.plot("\n")).split("\n")
    drawn = [
        Text.assemble(f"{texts.get(row, ''):>{gutter}} ", "┤" if row in texts else "│", dots)
        for row, dots in enumerate(rows)
    ]
    left, right = f"{area.left:,.0f}", f"{area.right:,.0f}"
    axis = [Text(f"{'':>{gutter}} └{'─' * columns}")]
    axis += [Text(f"{'':>{gutter}}  {left}{right:>{max(columns - len(left), 1)}}")]
    return Text("\n").join([*drawn, *axis, *_legend(lines, width)])


def _area(lines: Sequence[Curve]) -> _Area:
    steps = [step for line in lines for step in line.series.steps]
    values = [value for line in lines for value in line.series.values]
    left, right, bottom, top = min(steps), max(steps), min(values), max(values)
    if left == right:
        left, right = left - 1, right + 1
    if bottom == top:
        margin = abs(top) / 10 or 1.0
        bottom, top = bottom - margin, top + margin
    return _Area(left, right, bottom, top)


def _canvas(area: _Area, columns: int, height: int) -> Canvas:
    """Return a canvas on whose last dots the largest step and the largest value lie."""
    dots, rows = 2 * columns, 4 * height
    return Canvas(
        columns,
        height,
        xmin=area.left,
        ymin=area.bottom,
        xmax=area.left + (area.right - area.left) * dots / (dots - 1),
        ymax=area.bottom + (area.top - area.bottom) * rows / (rows - 1),
    )


def _draw(canvas: Canvas, line: Curve, number: int, columns: int, *, marked: bool) -> None:
    color = COLORS[number % len(COLORS)]
    series = thinned(line.series, columns)
    points = list(zip(series.steps, series.values, strict=True))
    if line.is_evaluation:
        for step, value in points:
            canvas.point(step, value, color=color, marker="o")
        return
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        canvas.line(x0, y0, x1, y1, color=color)
    if marked:
        for at in range(MARKS_PER_LINE):
            # Not at the same places on each line, where lines that are equal would hide marks.
            share = (at + (number % MARKS_PER_LINE) / MARKS_PER_LINE) / MARKS_PER_LINE
            step, value = points[int(share * (len(points) - 1))]
            canvas.point(step, value, color=color, marker=_letter(number))


def _legend(lines: Sequence[Curve], width: int) -> Iterator[Text]:
    if len(lines) == 1:
        return
    for number, line in enumerate(lines):
        mark = "o" if line.is_evaluation else _letter(number)
        style = COLORS[number % len(COLORS)]
        entry = Text.assemble("  ", (mark, style), f"  {visible(line.label)}")
        entry.truncate(width, overflow="ellipsis")
        yield entry


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26)
