"""A job's progress on stderr while one waits: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from dreadnode.cli import views
from dreadnode.cli.output import hint, say
from dreadnode.errors import JobEnded

if TYPE_CHECKING:
    from dreadnode.cli.context import Common
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob

LINES = 10
"""Number of progress lines of a job where stderr is not a terminal."""


def follow(client: ApiClient, job_id: str, common: Common, *, timeout: float | None = None) -> None:
    """Wait until a job has ended, show its progress meanwhile, and the job itself at the end.

    Raises:
        JobEnded: It failed or was cancelled.
        WaitTimedOut: The job still runs after TIMEOUT seconds.
    """
    try:
        with watcher() as update:
            job = client.wait_for_training_job(job_id, timeout=timeout, on_update=update)
    except JobEnded as ended:
        common.out.record(ended.job, views.JOB)
        hint(f"`dn train logs {job_id}` tells what it did, `dn train retry {job_id}` repeats it")
        raise
    except KeyboardInterrupt:
        hint(
            f"the job continues: `dn train wait {job_id}` follows it, "
            f"`dn train cancel {job_id}` stops it"
        )
        raise
    common.out.record(job, views.JOB)
    if job.artifacts.get("adapter"):
        hint(
            f"`dn train download {job_id}` fetches the adapter, "
            f"`dn train chat {job_id}` talks with it"
        )


def watcher() -> Bar | Lines:
    """Return what shows progress here."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line for each phase, and about ten for the steps: for logs and pipes."""

    def __init__(self) -> None:
        self._said: object = ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, job: TrainingJob | None) -> None:
        """Say how far JOB is, unless that was said; None means that the server does not answer."""
        milestone = _milestone(job) if job else None
        if milestone != self._said:
            say(_line(job) if job else "the server does not answer; waiting for it")
        self._said = milestone


class Bar:
    """A bar with the loss or the reward, and the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("waiting", total=None, steps="", figures="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, job: TrainingJob | None) -> None:
        """Show how far JOB is; None means that the server does not answer."""
        if job is None:
            self._progress.update(self._task, description="the server does not answer; waiting")
            return
        fields: dict[str, Any] = {"description": _doing(job), "steps": views.steps(job)}
        if job.progress is not None:
            fields |= {"total": job.progress.steps, "completed": job.progress.step}
            tokens = f"{job.progress.tokens:,} tokens" if job.progress.tokens else ""
            fields["figures"] = "  ".join([*views.figures(job), tokens])
            fields["left"] = _left(job.progress.seconds_left)
        self._progress.update(self._task, **fields)


def _doing(job: TrainingJob) -> str:
    return f"{job.phase or job.status}{' (rehearsal)' if job.rehearsal else ''}"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"


def _milestone(job: TrainingJob) -> tuple[object, ...]:
    """Return what changes as often as a line should be said."""
    progress = job.progress
    tenth = progress.step * LINES // progress.steps if progress and progress.steps else 0
    return job.status, job.phase, tenth


def _line(job: TrainingJob) -> str:
    parts = [_doing(job)]
    if views.steps(job):
        parts.append(f"step {views.steps(job)}")
    return ", ".join([*parts, *views.figures(job)])
