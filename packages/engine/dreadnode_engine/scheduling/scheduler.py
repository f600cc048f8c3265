"""One thread computes; lanes take turns on it, each as much time as the others.

A lane is what must happen in order: the operations of one run, or the samples drawn from one base
model. It is advanced by slices (a micro-batch, a few decoded tokens), and the next slice goes
to the ready lane that has used the least time, so that a long job does not hold up a short one.
"""

import logging
import threading
import time
from typing import Protocol

from dreadnode_engine.errors import StoppedUnwritten

log = logging.getLogger(__name__)


class Lane(Protocol):
    """What the worker asks of a lane. Only `advance` runs on the worker's thread."""

    used: float
    """Seconds of computing so far, as far as fairness is concerned."""

    @property
    def share(self) -> int:
        """How many lanes' time it gets: one that works for several clients gets that of several."""
        ...

    def ready(self) -> bool:
        """Whether there is something to do now."""
        ...

    def advance(self) -> None:
        """Do one slice of it; a problem with the work is the lane's to report, never raised."""
        ...


class Worker:
    """The computing thread.

    `stopping` is set when it was asked to end; what it does then has no time to wait.
    """

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._changed = threading.Condition()
        self.stopping = threading.Event()
        self._clock = 0.0
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Start computing."""
        self._thread.start()

    def add(self, lane: Lane) -> None:
        """Let LANE take its turns from now on."""
        with self._changed:
            self._lanes.append(lane)
        self.wake(lane)

    def remove(self, lane: Lane) -> None:
        """Give LANE no more turns."""
        with self._changed:
            if lane in self._lanes:
                self._lanes.remove(lane)

    def wake(self, lane: Lane) -> None:
        """Look again: LANE may have become ready; it has no claim to the time that it was not."""
        with self._changed:
            lane.used = max(lane.used, self._clock)
            self._changed.notify()

    def stop(self) -> None:
        """Finish the slice under way and end the thread."""
        with self._changed:
            self.stopping.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _next(self) -> Lane | None:
        """Wait for a lane with something to do, and return the one that has had the least."""
        with self._changed:
            while not self.stopping.is_set():
                ready = [lane for lane in self._lanes if lane.ready()]
                if ready:
                    chosen = min(ready, key=lambda lane: lane.used)
                    self._clock = chosen.used
                    return chosen
                self._changed.wait()
        return None

    def _run(self) -> None:
        while lane := self._next():
            started = time.monotonic()
            try:
                lane.advance()
            except StoppedUnwritten as problem:
                log.warning("%s", problem)
                return
            except Exception:
                log.exception("a lane stopped; it gets no more turns")
                self.remove(lane)
            lane.used += (time.monotonic() - started) / lane.share
