"""Passes progress events on to experiment trackers without delaying the training.

Each tracker has a thread of its own, because the libraries block. A tracker that fails, hangs or
cannot keep up is stopped with one warning in the job's log; the training continues.
"""

import asyncio
import math
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dreadnode_runtime.control.api import redacted
from dreadnode_runtime.control.events import Event, Reporter, Stop
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.control.trackers import (
    MAX_PARAMETER_LENGTH,
    TITLES,
    End,
    Name,
    Run,
    Tracker,
    open_tracker,
)
from dreadnode_runtime.errors import JobFailed, plain

MAX_QUEUED = 10_000
"""Events that may wait for a tracker before it is stopped."""
CLOSE_SECONDS, CLOSE_SECONDS_WHEN_TERMINATED = 20.0, 3.0
"""Time limits for closing a tracker: at the end of a job, and before the process must exit."""
AXES = ("steps", "eval/steps")
OpenTracker = Callable[[Name, Run], Tracker]


@asynccontextmanager
async def open_trackers(
    job: Job, reporter: Reporter, stop: Stop, open_: OpenTracker = open_tracker
) -> AsyncIterator[None]:
    """Pass REPORTER's events to the trackers that JOB's config names, until the job has ended.

    Errors of the trackers are never raised.
    """
    names: list[Name] = list(job.config.get("track") or [])
    threads = [TrackerThread(name, job, reporter, open_) for name in names]
    for each in threads:
        reporter.listeners.append(each.on_event)
    end: End = "interrupted"
    try:
        yield
        end = "interrupted" if stop.terminated or stop.cancelled else "completed"
    except JobFailed:
        end = "failed"
        raise
    finally:
        seconds = CLOSE_SECONDS_WHEN_TERMINATED if stop.terminated else CLOSE_SECONDS
        await asyncio.gather(*(each.close(end, seconds) for each in threads))


class TrackerThread:
    """One tracker, in a thread of its own.

    The thread starts with the event `training_start`: only then is the first step known.
    """

    def __init__(self, name: Name, job: Job, reporter: Reporter, open_: OpenTracker) -> None:
        self._name = name
        self._job = job
        self._reporter = reporter
        self._open = open_
        self._loop = asyncio.get_running_loop()
        self._events: queue.Queue[Event | End] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None
        self._stopped = False

    def on_event(self, event: Event) -> None:
        """Queue EVENT for the tracker; never blocks."""
        kind = event["event_type"]
        if kind == "training_start" and self._thread is None:
            # A daemon thread does not keep the process alive while its library waits.
            self._thread = threading.Thread(target=self._run, args=[event], daemon=True)
            self._thread.start()
        elif kind in ("step_complete", "eval_complete") and self._thread and not self._stopped:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self._stop(f"{MAX_QUEUED} events are waiting for it")

    async def close(self, end: End, seconds: float) -> None:
        """Close the tracker's run as END, within SECONDS."""
        if self._thread is None or self._stopped:
            return
        self._events.put_nowait(end)
        await asyncio.to_thread(self._thread.join, seconds)
        if self._thread.is_alive():
            self._stop(f"it did not take the last metrics within {seconds:.0f} s")

    def _run(self, started: Event) -> None:
        try:
            tracker = self._open(
                self._name, tracker_run(self._job, started["data"].get("start") or 0)
            )
            while isinstance(event := self._events.get(), dict):
                if self._stopped:
                    return
                if values := metrics_of(event["metrics"]):
                    tracker.log(int(event["data"].get("step") or 0), values)
            tracker.close(event)
        except Exception as error:
            # An error of a tracker's library must not end the training.
            self._loop.call_soon_threadsafe(self._stop, plain(redacted(str(error) or repr(error))))

    def _stop(self, why: str) -> None:
        if not self._stopped:
            self._stopped = True
            self._reporter.log(
                f"{TITLES[self._name]} no longer receives this run: {why}; "
                "all metrics are in the job's own record",
                level="warning",
            )


def metrics_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the newest value of each of METRICS that is a finite number, without the axes."""
    newest = {
        name: value[-1] if isinstance(value, list) and value else value
        for name, value in metrics.items()
        if name not in AXES
    }
    return {
        name: float(value)
        for name, value in newest.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def tracker_run(job: Job, start: int) -> Run:
    """Return JOB's run, which resumes after step START."""
    config = {name: value for name, value in job.config.items() if not name.startswith("track")}
    constants = {
        "model": job.model,
        "trained_model": job.trained_model,
        "rehearsal": job.rehearsal,
        "trainer_type": job.trainer_type,
        **config,
    }
    strings = {name: str(value) for name, value in constants.items() if value is not None}
    parameters = {name: text for name, text in strings.items() if len(text) <= MAX_PARAMETER_LENGTH}
    name = job.name or job.id
    return Run(
        job_id=job.id,
        name=f"REHEARSAL: {name}" if job.rehearsal else name,
        project=str(job.config.get("track_project") or "dreadnode"),
        parameters=parameters,
        start=start,
    )
