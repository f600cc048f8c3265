"""Waits for a job and shows its progress: a live view in a terminal, otherwise lines."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dreadnode.cli import views
from dreadnode.cli.output import hint, say, visible
from dreadnode.errors import DreadnodeError, JobEnded

if TYPE_CHECKING:
    from dreadnode.cli.context import Common
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob

LINES = 10
"""The number of lines for a job's steps without a terminal."""

_INFRASTRUCTURE = "attempts_used_up"
"""The error code of a job that failed without a fault in its data, its code or its settings."""


def follow(
    client: ApiClient,
    job_id: str,
    common: Common,
    *,
    timeout: float | None = None,
    show_job: bool = True,
) -> None:
    """Wait for the end of a job, show its progress, and print the job unless SHOW_JOB is false.

    Raises:
        JobEnded: It failed or was cancelled.
        WaitTimedOut: It still runs after TIMEOUT seconds.
    """
    try:
        job = _wait(client, job_id, timeout)
    except JobEnded as ended:
        if show_job:
            common.out.record(ended.job, views.JOB)
        if not common.json:
            hint(next_after_failure(ended.job))
        raise
    except KeyboardInterrupt:
        say_it_keeps_running(client, job_id)
        raise
    if show_job:
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


def is_terminal() -> bool:
    """Whether a person reads stderr in a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _wait(client: ApiClient, job_id: str, timeout: float | None) -> TrainingJob:
    if not is_terminal():
        return client.wait_for_training_job(job_id, timeout=timeout, on_update=Lines())
    from rich.console import Console

    from dreadnode.cli.train.live import follow_live

    return follow_live(client, job_id, Console(stderr=True), timeout=timeout)


def say_it_keeps_running(client: ApiClient, job_id: str) -> None:
    """Print how far a job is, and how to come back to it or stop it."""
    try:
        job: TrainingJob | None = client.get_training_job(job_id)
    except DreadnodeError:
        # The server does not respond, and a person who leaves does not wait for it.
        job = None
    if job is not None and job.has_ended:
        say(f"the job is {job.status}")
        return
    say(f"the job keeps running: {_line(job)}" if job else "the job keeps running")
    hint(f"`dn train watch {job_id}` follows it, `dn train cancel {job_id}` stops it")


def next_after_failure(job: TrainingJob) -> str:
    """Return what to do after JOB has failed or was cancelled."""
    log = f"`dn train logs {job.id}` shows its log"
    if job.status == "cancelled" or job.error_code == _INFRASTRUCTURE:
        return f"{log}, `dn train retry {job.id}` repeats it"
    # A retry would fail again: the fault is in the job itself.
    return f"{log}, `dn train clone {job.id} --set config.…=…` submits it again with a change"


class Lines:
    """Prints a line for each phase, and about ten for the steps: for logs and pipes."""

    def __init__(self) -> None:
        self._printed: object = ...

    def __call__(self, job: TrainingJob | None) -> None:
        """Print the progress of JOB if it is new; None means that the server does not respond."""
        milestone = _milestone(job) if job else None
        if milestone != self._printed:
            say(_line(job) if job else "the server does not respond; waiting for it")
        self._printed = milestone


def _phase(job: TrainingJob) -> str:
    return visible(f"{job.phase or job.status}{' (rehearsal)' if job.rehearsal else ''}")


def time_left(seconds: float | None) -> str:
    """Return the time that is left of a job."""
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
