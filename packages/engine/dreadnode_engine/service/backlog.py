"""How much accepted work may wait: per run or sampler, and in all."""

import threading
from collections import Counter

from dreadnode_engine.errors import Overloaded, RateLimited
from dreadnode_engine.settings import MIB, Settings
from dreadnode_engine.state.records import Request


class Backlog:
    """Counts the bytes of requests that are accepted and not done. Safe in any thread."""

    def __init__(self, settings: Settings) -> None:
        self._of_queue: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._lock = threading.Lock()
        self._queue_limit = settings.backlog_mib_per_run * MIB
        self._limit = settings.backlog_mib * MIB

    @property
    def bytes(self) -> int:
        """Bytes of all waiting requests."""
        return self._total

    def check(self, request: Request) -> None:
        """Refuse REQUEST if too much waits; the first request of a queue always fits into it."""
        with self._lock:
            if request.id in self._sizes:
                return
            waiting = self._of_queue[request.queue]
            if waiting and waiting + request.body_bytes > self._queue_limit:
                raise RateLimited(
                    f"{waiting // MIB} MiB of requests wait in {request.queue}, and at most "
                    f"{self._queue_limit // MIB} MiB may; wait for results before you send more"
                )
            if self._total and self._total + request.body_bytes > self._limit:
                raise Overloaded(
                    f"{self._total // MIB} MiB of requests wait in this engine, and at most "
                    f"{self._limit // MIB} MiB may; try again later"
                )

    def add(self, request: Request) -> None:
        """Count REQUEST as waiting."""
        with self._lock:
            if request.id in self._sizes:
                return
            self._sizes[request.id] = request.body_bytes
            self._of_queue[request.queue] += request.body_bytes
            self._total += request.body_bytes

    def remove(self, request: Request) -> None:
        """Count REQUEST as done."""
        with self._lock:
            size = self._sizes.pop(request.id, 0)
            self._of_queue[request.queue] -= size
            self._total -= size
            if self._of_queue[request.queue] <= 0:
                del self._of_queue[request.queue]
