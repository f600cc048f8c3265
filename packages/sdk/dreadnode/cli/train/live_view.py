"""The live view of a job in a terminal: phase, progress, chart, pace, cost and last log lines."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dreadnode.cli import views
from dreadnode.cli.charts import chart
from dreadnode.cli.money import dollars
from dreadnode.cli.output import visible
from dreadnode.cli.train.progress import time_left

if TYPE_CHECKING:
    from dreadnode.cli.train.run_state import RunState
    from dreadnode.training.jobs import JobEvent, TrainingJob

LOG_LINES = 5
OTHER_ROWS = 11 + LOG_LINES
"""Rows of the view besides the chart."""
MIN_CHART, MAX_CHART = 4, 14
STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


class LiveView:
    """Shows the state of a run, and redraws it as it changes. Threads may call its methods."""

    def __init__(self, state: RunState, console: Console) -> None:
        self._state = state
        self._console = console
        self._lock = RLock()
        self._chart: tuple[object, Text] | None = None
        self._live = Live(get_renderable=self.frame, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, event: JobEvent) -> None:
        """Show the next event."""
        with self._lock:
            self._state.add(event)

    def refresh(self, job: TrainingJob) -> None:
        """Show a newer record of the job."""
        with self._lock:
            self._state.refresh(job)

    def connected(self, is_connected: bool) -> None:
        """Show whether the server responds."""
        with self._lock:
            self._state.connected(is_connected)

    def frame(self) -> RenderableType:
        """Return the view of this moment."""
        with self._lock:
            job, width = self._state.job, self._console.width
            rows: list[RenderableType] = [_one_line(_title(job)), _one_line(_status(job))]
            if job.progress is not None:
                rows += [_bar(job), _one_line(self._metrics())]
            rows += [_one_line(_cost(job)), self._curves(width), Text()]
            rows += [_one_line(Text(line, style="dim")) for line in self._state.lines]
            if self._state.lost_at is not None:
                seconds = self._state.clock() - self._state.lost_at
                lost = f"connection lost {seconds:.0f} s ago; reconnecting"
                rows.append(_one_line(Text(lost, style="bold yellow")))
            return Group(*rows)

    def _metrics(self) -> Text:
        state, progress = self._state, self._state.job.progress
        parts = views.latest_metrics(state.job)
        if progress is not None and progress.tokens:
            parts.append(f"{progress.tokens:,} tokens")
        if state.tokens_per_second:
            parts.append(f"{state.tokens_per_second:,.0f} tokens/s")
        if state.seconds_per_step:
            parts.append(f"{state.seconds_per_step:.3g} s/step")
        return Text("  ".join(parts))

    def _curves(self, width: int) -> Text:
        height = min(max(self._console.height - OTHER_ROWS, MIN_CHART), MAX_CHART)
        key = (self._state.version, width, height)
        if self._chart is None or self._chart[0] != key:
            # A long history is thinned only when it has changed.
            self._chart = key, chart(self._state.curves, width=width, height=height)
        return self._chart[1]


def _title(job: TrainingJob) -> Text:
    return Text.assemble(
        (visible(job.name or job.id), "bold"), f"  {job.trainer_type}  {visible(views.model(job))}"
    )


def _status(job: TrainingJob) -> Text:
    parts = [Text(visible(views.status(job)), style=STYLES.get(job.status, ""))]
    if job.phase_reason and not job.has_ended:
        parts.append(Text(visible(job.phase_reason)))
    if job.attempt > 1:
        parts.append(Text(f"attempt {job.attempt}"))
    return Text("  ").join(parts)


def _bar(job: TrainingJob) -> Table:
    progress = job.progress
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1)
    table.add_column(no_wrap=True)
    if progress is None:
        return table
    parts = [views.steps(job)]
    if progress.steps:
        parts.append(f"{100 * progress.step // progress.steps}%")
    if not job.has_ended:
        parts.append(time_left(progress.seconds_left))
    bar = ProgressBar(total=progress.steps, completed=progress.step, pulse=False)
    table.add_row(bar, "  ".join(part for part in parts if part))
    return table


def _cost(job: TrainingJob) -> Text:
    cost = views.short_cost(job)
    limit = job.cost.limit_usd
    if limit is not None and job.cost.paid:
        cost = f"{cost or dollars(limit * 0)} of {dollars(limit)}"
    return Text(f"cost {cost}" if cost else "")


def _one_line(text: Text) -> Text:
    """Return TEXT so that it is cut at the width instead of wrapped."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
