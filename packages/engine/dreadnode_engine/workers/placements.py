"""Where sessions, runs and samplers are: read from the journals at the start, then kept in memory.

The journals of the workers are the only record. The router writes none: what it does not know, it
asks the workers.
"""

import sqlite3
import time
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import worker_dir
from dreadnode_engine.state.journal import open_journal
from dreadnode_engine.state.records import Run, Sampler, Session

REMEMBERED = 100_000
"""Sampling requests whose worker is in memory."""


@dataclass
class PlacedSession:
    """A session that several workers may have.

    Attributes:
        record: as it was created; `finished` is kept.
        workers: that have it.
        homes: the worker of each of its runs and samplers, by id.
    """

    record: Session
    workers: set[int] = field(default_factory=set)
    homes: dict[str, int] = field(default_factory=dict)

    def finish(self) -> None:
        """Record that the session is finished, for workers that get it later."""
        self.record.finished = self.record.finished or time.time()


class Placements:
    """The worker of every session, run, sampler and sampling request that the router knows.

    Attributes:
        sessions: by id.
        holders: the workers of each sampler that several workers have.
        unshared: samplers that only their home may have.
        restored: samplers that the journals had at the start. A router before this one may have
            sent requests of theirs to any of their holders.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, PlacedSession] = {}
        self.holders: dict[str, set[int]] = {}
        self.unshared: set[str] = set()
        self.restored: set[str] = set()
        self._requests: OrderedDict[str, int] = OrderedDict()

    def add_session(self, record: Session, worker: int) -> PlacedSession:
        """Record that WORKER has the session RECORD."""
        placed = self.sessions.setdefault(record.id, PlacedSession(record))
        placed.workers.add(worker)
        placed.record.finished = placed.record.finished or record.finished
        return placed

    def session_of(self, name: str) -> PlacedSession | None:
        """Return the session of the run or sampler NAME, whose id begins with the session's."""
        return self.sessions.get(name.partition(":")[0])

    def home(self, name: str) -> int | None:
        """Return the worker of the run or sampler NAME, if it is known."""
        placed = self.session_of(name)
        return placed.homes.get(name) if placed is not None else None

    def set_home(self, name: str, worker: int) -> None:
        """Record that WORKER has the run or sampler NAME."""
        if (placed := self.session_of(name)) is not None:
            placed.homes[name] = worker

    def remove_home(self, name: str) -> None:
        """Record that no worker has the run or sampler NAME."""
        if (placed := self.session_of(name)) is not None:
            placed.homes.pop(name, None)

    def request(self, name: str) -> int | None:
        """Return the worker that the sampling request NAME was sent to, if it is in memory."""
        return self._requests.get(name)

    def set_request(self, name: str, worker: int) -> None:
        """Record that the sampling request NAME is sent to WORKER."""
        self._requests[name] = worker
        while len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)


def read_journals(shared_dir: Path, workers: int) -> Placements:
    """Return what the journals of WORKERS workers in SHARED_DIR hold; none of them may run."""
    placements = Placements()
    for index in range(workers):
        path = worker_dir(shared_dir, index) / "engine.sqlite3"
        if path.exists():
            with closing(open_journal(path)) as journal:
                _add_journal(placements, index, journal)
    return placements


def _add_journal(placements: Placements, index: int, journal: sqlite3.Connection) -> None:
    for session in queries.every(journal, Session):
        placements.add_session(session, index)
    for run in queries.every(journal, Run):
        placements.set_home(run.id, index)
    for sampler in queries.every(journal, Sampler):
        placements.restored.add(sampler.id)
        known = placements.home(sampler.id)
        if known is None:
            placements.set_home(sampler.id, index)
        else:
            placements.holders.setdefault(sampler.id, {known}).add(index)
