"""Passes what a job tells on to trackers, and never lets them get in its way.

Each has a thread of its own, since their libraries block. One that fails, hangs or cannot keep up
is given up with one warning in the job's log; training neither waits for it nor ends with it.
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
from dreadnode_runtime.control.trackers import (
    LONGEST_PARAMETER,
    TITLES,
    End,
    Name,
    Run,
    Tracker,
    open_tracker,
)
from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.jobs.lifecycle import Job

MOST_WAITING = 10_000
"""Events that wait for a tracker before it is taken for dead."""
PATIENCE, HURRY = 20.0, 3.0
"""Seconds that a tracker has for its last words: at the end, and when the process is to go."""
AXES = ("steps", "eval/steps")
OpenTracker = Callable[[Name, Run], Tracker]


@asynccontextmanager
async def followed(
    job: Job, reporter: Reporter, stop: Stop, open_: OpenTracker = open_tracker
) -> AsyncIterator[None]:
    """Let the trackers that JOB's config names hear what REPORTER tells, until the job has ended.

    Nothing that goes wrong with them is raised.
    """
    names: list[Name] = list(job.config.get("track") or [])
    followers = [Follower(name, job, reporter, open_) for name in names]
    for each in followers:
        reporter.listeners.append(each.hear)
    end: End = "interrupted"
    try:
        yield
        end = "interrupted" if stop.terminated or stop.cancelled else "completed"
    except JobFailed:
        end = "failed"
        raise
    finally:
        patience = HURRY if stop.terminated else PATIENCE
        await asyncio.gather(*(each.close(end, patience) for each in followers))


class Follower:
    """One tracker, in a thread of its own.

    It begins with the first event that says where training starts: before that there is no run.
    """

    def __init__(self, name: Name, job: Job, reporter: Reporter, open_: OpenTracker) -> None:
        self._name = name
        self._job = job
        self._reporter = reporter
        self._open = open_
        self._loop = asyncio.get_running_loop()
        self._events: queue.Queue[Event | End] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._given_up = False

    def hear(self, event: Event) -> None:
        """Take EVENT, without waiting for anything."""
        kind = event["event_type"]
        if kind == "training_start" and self._thread is None:
            # A daemon: whatever its library waits for, the process can end.
            self._thread = threading.Thread(target=self._work, args=[event], daemon=True)
            self._thread.start()
        elif kind in ("step_complete", "eval_complete") and self._thread and not self._given_up:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self._give_up(f"{MOST_WAITING} events wait for it")

    async def close(self, end: End, patience: float) -> None:
        """Tell the tracker how the run ended, and wait PATIENCE seconds until it took note."""
        if self._thread is None or self._given_up:
            return
        self._events.put_nowait(end)
        await asyncio.to_thread(self._thread.join, patience)
        if self._thread.is_alive():
            self._give_up(f"it did not take the last figures within {patience:.0f} s")

    def _work(self, started: Event) -> None:
        try:
            tracker = self._open(self._name, run_of(self._job, started["data"].get("start") or 0))
            while isinstance(event := self._events.get(), dict):
                if self._given_up:
                    return
                if figures := figures_of(event["metrics"]):
                    tracker.log(int(event["data"].get("step") or 0), figures)
            tracker.close(event)
        except Exception as error:
            # Whatever somebody else's library raises, it is no reason to stop a training.
            self._loop.call_soon_threadsafe(
                self._give_up, plain(redacted(str(error) or repr(error)))
            )

    def _give_up(self, why: str) -> None:
        if not self._given_up:
            self._given_up = True
            self._reporter.log(
                f"{TITLES[self._name]} does not follow this run any more: {why}; "
                "the figures are all in the job's own record",
                level="warning",
            )


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the newest value of each of METRICS that is a finite number, the axes left out."""
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


def run_of(job: Job, start: int) -> Run:
    """Return what trackers are told of JOB, which goes on from step START."""
    config = {name: value for name, value in job.config.items() if not name.startswith("track")}
    told = {
        "model": job.model,
        "trained_model": job.trained_model,
        "rehearsal": job.rehearsal,
        "trainer_type": job.trainer_type,
        **config,
    }
    texts = {name: str(value) for name, value in told.items() if value is not None}
    facts = {name: text for name, text in texts.items() if len(text) <= LONGEST_PARAMETER}
    name = job.name or job.id
    return Run(
        job_id=job.id,
        name=f"REHEARSAL: {name}" if job.rehearsal else name,
        project=str(job.config.get("track_project") or "dreadnode"),
        facts=facts,
        start=start,
    )
