"""The scheduler: one thread computes, and queues share its time equally.

A queue is work that must happen in order: the operations of one run, or the samples of one base
model. It advances by slices (a micro-batch, a decoded token). The next slice goes to the ready
queue that has used the least time, so that a long job does not delay a short one.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from dreadnode_engine.errors import StoppedBeforeCommit

log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
"""The scheduler calls `when_idle` each time that it had no work for so long."""


class WorkQueue(Protocol):
    """What the scheduler needs of a queue. Only `advance` runs on the computing thread."""

    used: float
    """Seconds of computing that count for its share."""

    @property
    def share(self) -> int:
        """How many clients it works for: it gets the time of so many queues."""
        ...

    def ready(self) -> bool:
        """Whether there is something to do now."""
        ...

    def advance(self) -> None:
        """Do one slice; the queue reports its own errors and does not raise them."""
        ...


class Scheduler:
    """The computing thread.

    `stopping` is set once the engine is asked to end: nothing may wait long after that.
    """

    def __init__(self, when_idle: Callable[[], None] = lambda: None) -> None:
        self._when_idle = when_idle
        self._known: set[WorkQueue] = set()
        # Only woken queues are asked whether they are ready: thousands of idle runs cost nothing.
        self._active: set[WorkQueue] = set()
        self._changed = threading.Condition()
        self.stopping = threading.Event()
        self._clock = 0.0
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Start computing."""
        self._thread.start()

    def add(self, queue: WorkQueue) -> None:
        """Schedule QUEUE from now on."""
        with self._changed:
            self._known.add(queue)
        self.wake(queue)

    def remove(self, queue: WorkQueue) -> None:
        """Schedule QUEUE no more."""
        with self._changed:
            self._known.discard(queue)
            self._active.discard(queue)

    def wake(self, queue: WorkQueue) -> None:
        """Check QUEUE again, which may have become ready."""
        with self._changed:
            # Idle time gives no claim: a queue starts where the one that runs now stands.
            queue.used = max(queue.used, self._clock)
            if queue in self._known:
                self._active.add(queue)
            self._changed.notify()

    def stop(self) -> None:
        """Finish the current slice and end the thread."""
        with self._changed:
            self.stopping.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _next(self) -> WorkQueue | None:
        """Return the ready queue that has used the least time; None after a time without one."""
        with self._changed:
            while not self.stopping.is_set():
                self._active = {queue for queue in self._active if queue.ready()}
                if self._active:
                    chosen = min(self._active, key=lambda queue: queue.used)
                    self._clock = chosen.used
                    return chosen
                if not self._changed.wait(IDLE_SECONDS):
                    return None
        return None

    def _run(self) -> None:
        while not self.stopping.is_set():
            queue = self._next()
            if queue is None:
                self._when_idle()
                continue
            started = time.monotonic()
            try:
                queue.advance()
            except StoppedBeforeCommit as problem:
                log.warning("%s", problem)
                return
            except Exception:
                log.exception("a queue failed and is scheduled no more")
                self.remove(queue)
            queue.used += (time.monotonic() - started) / queue.share
