"""A job's progress on stderr during a wait: a bar in a terminal, otherwise lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from dreadnode.cli import views
from dreadnode.cli.output import hint, say, visible
from dreadnode.errors import JobEnded

if TYPE_CHECKING:
    from dreadnode.cli.context import Common
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob

LINES = 10
"""The number of lines for a job's steps without a terminal."""

_INFRASTRUCTURE = "attempts_used_up"
"""The error code of a job that failed without a fault in its data, its code or its settings."""


def follow(client: ApiClient, job_id: str, common: Common, *, timeout: float | None = None) -> None:
    """Wait for the end of a job, show its progress, and print the job.

    Raises:
        JobEnded: It failed or was cancelled.
        WaitTimedOut: It still runs after TIMEOUT seconds.
    """
    try:
        with progress_display() as update:
            job = client.wait_for_training_job(job_id, timeout=timeout, on_update=update)
    except JobEnded as ended:
        common.out.record(ended.job, views.JOB)
        if not common.json:
            hint(next_after_failure(ended.job))
        raise
    except KeyboardInterrupt:
        hint(
            f"the job keeps running: `dn train wait {job_id}` follows it, "
            f"`dn train cancel {job_id}` stops it"
        )
        raise
    common.out.record(job, views.JOB)
    if common.json:
        return
    if job.artifacts.get("adapter"):
        hint(
            f"`dn train download {job_id}` downloads the adapter, "
            f"`dn train chat {job_id}` talks to it"
        )
    if job.better_evaluation:
        hint(views.take_best(job))


def next_after_failure(job: TrainingJob) -> str:
    """Return what to do after JOB has failed or was cancelled."""
    log = f"`dn train logs {job.id}` shows its log"
    if job.status == "cancelled" or job.error_code == _INFRASTRUCTURE:
        return f"{log}, `dn train retry {job.id}` repeats it"
    # A retry would fail again: the fault is in the job itself.
    return f"{log}, `dn train clone {job.id} --set config.…=…` submits it again with a change"


def progress_display() -> Bar | Lines:
    """Return the display for this stderr."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """Prints a line for each phase, and about ten for the steps: for logs and pipes."""

    def __init__(self) -> None:
        self._printed: object = ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, job: TrainingJob | None) -> None:
        """Print the progress of JOB if it is new; None means that the server does not respond."""
        milestone = _milestone(job) if job else None
        if milestone != self._printed:
            say(_line(job) if job else "the server does not respond; waiting for it")
        self._printed = milestone


class Bar:
    """Shows a bar with the metrics and the remaining time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("waiting", total=None, steps="", metrics="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, job: TrainingJob | None) -> None:
        """Show the progress of JOB; None means that the server does not respond."""
        if job is None:
            self._progress.update(self._task, description="the server does not respond; waiting")
            return
        fields: dict[str, Any] = {"description": _phase(job), "steps": views.steps(job)}
        if job.progress is not None:
            fields |= {"total": job.progress.steps, "completed": job.progress.step}
            tokens = f"{job.progress.tokens:,} tokens" if job.progress.tokens else ""
            fields["metrics"] = "  ".join([*views.latest_metrics(job), tokens])
            fields["left"] = _left(job.progress.seconds_left)
        self._progress.update(self._task, **fields)


def _phase(job: TrainingJob) -> str:
    return visible(f"{job.phase or job.status}{' (rehearsal)' if job.rehearsal else ''}")


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"


def _milestone(job: TrainingJob) -> tuple[object, ...]:
    """Return a value that changes whenever a new line is due."""
    progress = job.progress
    tenth = progress.step * LINES // progress.steps if progress and progress.steps else 0
    return job.status, job.phase, job.phase_reason if job.status == "queued" else None, tenth


def _line(job: TrainingJob) -> str:
    parts = [_phase(job)]
    if job.status == "queued" and job.phase_reason:
        parts.append(job.phase_reason)
    if views.steps(job):
        parts.append(f"step {views.steps(job)}")
    return ", ".join([*parts, *views.latest_metrics(job)])
