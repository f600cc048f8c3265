"""How much accepted work may wait: per run or sampler, per client, and in all."""

import threading
from collections import Counter

from dreadnode_engine.errors import Overloaded, RateLimited
from dreadnode_engine.settings import MIB, Settings
from dreadnode_engine.state.records import Request

LEAST_BYTES = 64 * 1024
"""What a waiting request counts at least: its record stays in memory, however small its body is."""


class Backlog:
    """Counts the bytes of requests that are accepted and not done. Safe in any thread."""

    def __init__(self, settings: Settings) -> None:
        self._of_queue: Counter[str] = Counter()
        self._of_owner: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._lock = threading.Lock()
        self._queue_limit = settings.backlog_mib_per_run * MIB
        self._limit = settings.backlog_mib * MIB

    @property
    def bytes(self) -> int:
        """Bytes of all waiting requests."""
        return self._total

    def reserve(self, request: Request) -> bool:
        """Count REQUEST as waiting, and return whether it was not counted before.

        Raises:
            RateLimited: too much of its queue or of its owner waits; the first request of a queue
                always fits into it, and an owner has at most half of all.
            Overloaded: too much waits in all.
        """
        with self._lock:
            if request.id in self._sizes:
                return False
            size = _size(request)
            waiting, owned = self._of_queue[request.queue], self._of_owner[request.owner]
            if waiting and waiting + size > self._queue_limit:
                raise _too_much(waiting, f"of requests wait in {request.queue}", self._queue_limit)
            if owned and owned + size > self._limit // 2:
                raise _too_much(owned, "of your requests wait", self._limit // 2)
            if self._total and self._total + size > self._limit:
                raise Overloaded(
                    f"{self._total // MIB} MiB of requests wait in this engine, and at most "
                    f"{self._limit // MIB} MiB may; try again later"
                )
            self._count(request, size)
            return True

    def add(self, request: Request) -> None:
        """Count REQUEST, which was accepted before a restart, as waiting."""
        with self._lock:
            if request.id not in self._sizes:
                self._count(request, _size(request))

    def remove(self, request: Request) -> None:
        """Count REQUEST as done."""
        with self._lock:
            if request.id in self._sizes:
                self._count(request, -self._sizes[request.id])

    def _count(self, request: Request, size: int) -> None:
        self._total += size
        for counter, key in ((self._of_queue, request.queue), (self._of_owner, request.owner)):
            counter[key] += size
            if counter[key] <= 0:
                del counter[key]
        if size > 0:
            self._sizes[request.id] = size
        else:
            del self._sizes[request.id]


def _size(request: Request) -> int:
    return max(request.body_bytes, LEAST_BYTES)


def _too_much(waiting: int, what: str, limit: int) -> RateLimited:
    return RateLimited(
        f"{waiting // MIB} MiB {what}, and at most {limit // MIB} MiB may; wait for results before "
        "you send more"
    )
