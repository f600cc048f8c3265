"""Follows a job in a live view, until it has ended."""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import TYPE_CHECKING

from dreadnode.cli.train.live_view import LOG_LINES, LiveView
from dreadnode.cli.train.run_state import RunState
from dreadnode.errors import ConnectionFailed, DreadnodeError, ServerError, WaitTimedOut

if TYPE_CHECKING:
    from rich.console import Console

    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob

REFRESH_SECONDS = 3.0
"""Seconds between two requests for the parts of the job that have no events, such as its cost."""


def follow_live(
    client: ApiClient, job_id: str, console: Console, *, timeout: float | None = None
) -> TrainingJob:
    """Show a job until it has ended, and return it.

    Raises:
        JobEnded: It failed or was cancelled.
        WaitTimedOut: It still runs after TIMEOUT seconds.
    """
    started = time.monotonic()
    job = client.get_training_job(job_id)
    log = client.list_training_job_logs(job_id, tail=LOG_LINES).items
    # A step between the last line and now is in the history too; its point is then set twice.
    after = max((entry.cursor for entry in log), default=0)
    view = LiveView(RunState.of(job, log, LOG_LINES), console)
    with view:
        reader = _Reader(client, job_id, after, view)
        while not reader.ended.wait(REFRESH_SECONDS):
            if timeout is not None and time.monotonic() - started >= timeout:
                raise WaitTimedOut(job, timeout)
            _refresh(client, job, view)
        if reader.failure is not None:
            raise reader.failure
        view.refresh(client.get_training_job(job_id))
    return client.wait_for_training_job(job_id)


def _refresh(client: ApiClient, job: TrainingJob, view: LiveView) -> None:
    """Get the record without its metric history, which can be large."""
    try:
        found = client.list_training_jobs(id_prefix=job.id, page_size=1).items
    except (ConnectionFailed, ServerError):
        view.connected(False)
        return
    if found:
        view.refresh(found[0])


class _Reader:
    """Reads the events of a job in a thread, which ends with the job or with the program.

    Attributes:
        ended: Whether there are no more events.
        failure: Why they ended early.
    """

    def __init__(self, client: ApiClient, job_id: str, after: int, view: LiveView) -> None:
        self.ended = Event()
        self.failure: DreadnodeError | None = None
        self._events = client.watch_training_job(job_id, after=after, on_connection=view.connected)
        Thread(target=self._run, args=[view], daemon=True).start()

    def _run(self, view: LiveView) -> None:
        try:
            for event in self._events:
                view.add(event)
        except DreadnodeError as failure:
            self.failure = failure
        finally:
            self.ended.set()
