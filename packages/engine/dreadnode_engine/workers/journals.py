"""The journals of workers that do not serve now, which the router reads in their place.

A journal belongs to its worker. The router opens it under the lock of the worker's data directory,
so never while the worker runs.
"""

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from dreadnode_engine.errors import NotFound, Refused
from dreadnode_engine.http.checkpoint_search import CheckpointSearch, search_json
from dreadnode_engine.http.paging import cursor
from dreadnode_engine.http.rest import checkpoint_json, run_json, storage_json
from dreadnode_engine.service.checkpoints import unexpired
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.service.traces import open_trace, write_trace
from dreadnode_engine.startup import lock_data_dir
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import worker_dir
from dreadnode_engine.state.journal import open_journal
from dreadnode_engine.state.records import Checkpoint, Run, Session
from dreadnode_engine.workers.forwarding import Forwarded, WorkerAway, ask
from dreadnode_engine.workers.supervisor import Worker

T = TypeVar("T")
Read = Callable[[sqlite3.Connection], T]


class Journals:
    """The journals of all workers in SHARED_DIR."""

    def __init__(self, shared_dir: Path) -> None:
        self._shared_dir = shared_dir
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, index: int, work: Read[T]) -> T:
        """Return what WORK finds in the journal of worker INDEX.

        Raises:
            Refused: The worker runs.
            OSError, sqlite3.Error: The journal cannot be read.
        """
        own = worker_dir(self._shared_dir, index)
        async with self._locks[index]:
            lock = await lock_data_dir(own, seconds=0.0)
            try:
                return await asyncio.to_thread(_read, own / "engine.sqlite3", work)
            finally:
                lock.close()

    async def ask(self, worker: Worker, call: Forwarded, work: Read[Any]) -> Any:
        """Return the JSON of the response of WORKER to CALL, or what WORK finds in its journal.

        Raises:
            WorkerAway: It starts just now, and not in time.
            Refused: with the words and the status of the worker.
        """
        try:
            return await ask(worker, call, seconds=0.0)
        except WorkerAway:
            pass
        try:
            return await self.read(worker.index, work)
        except (Refused, OSError, sqlite3.Error):
            return await ask(worker, call)


def _read(path: Path, work: Read[T]) -> T:
    # A worker that died before its first write has no journal.
    with closing(open_journal(path if path.exists() else Path(":memory:"))) as journal:
        return work(journal)


def runs(db: sqlite3.Connection, who: Principal) -> dict[str, Any]:
    """Return the runs of WHO as their worker lists them."""
    saved = unexpired(db, who)
    items = [run_json(run, saved) for run in queries.every(db, Run) if who.can_access(run.owner)]
    return {"training_runs": items, "cursor": cursor(len(items), 0, len(items))}


def checkpoints(db: sqlite3.Connection, who: Principal) -> dict[str, Any]:
    """Return the checkpoints of WHO as their worker lists them."""
    items = [checkpoint_json(each) for each in unexpired(db, who)]
    return {"checkpoints": items, "cursor": cursor(len(items), 0, len(items))}


def run(db: sqlite3.Connection, who: Principal, name: str) -> dict[str, Any]:
    """Return the run NAME of WHO."""
    found = queries.find(db, Run, name)
    if found is None or not who.can_access(found.owner):
        raise NotFound(f"The training run `{name[:200]}` does not exist")
    return run_json(found, unexpired(db, who, name))


def checkpoints_of_run(db: sqlite3.Connection, who: Principal, name: str) -> dict[str, Any]:
    """Return the checkpoints of the run NAME of WHO."""
    return {"checkpoints": [checkpoint_json(each) for each in unexpired(db, who, name)]}


def sessions(db: sqlite3.Connection, who: Principal) -> list[list[Any]]:
    """Return the sessions of WHO with their times."""
    return [[s.created, s.id] for s in queries.every(db, Session) if who.can_access(s.owner)]


def search(db: sqlite3.Connection, who: Principal, body: bytes) -> dict[str, Any]:
    """Return one page of the checkpoints that match a search."""
    return search_json(CheckpointSearch.read(body), who, unexpired(db, who))


def storage(db: sqlite3.Connection, who: Principal) -> dict[str, Any]:
    """Return what the checkpoints of WHO take."""
    return storage_json(unexpired(db, who))


def session(db: sqlite3.Connection, name: str) -> dict[str, Any]:
    """Return the runs and samplers of the session NAME."""
    found, samplers = queries.queues_of(db, name)
    return {"training_run_ids": [r.id for r in found], "sampler_ids": [s.id for s in samplers]}


def trace(db: sqlite3.Connection, name: str) -> Any:
    """Return the trace of the session NAME."""
    text = StringIO()
    write_trace(db, open_trace(db, name), text)
    return json.loads(text.getvalue())


def checkpoint(db: sqlite3.Connection, path: str) -> dict[str, Any] | None:
    """Return the record of the checkpoint at PATH, if there is one."""
    found = queries.find(db, Checkpoint, path)
    return asdict(found) if found is not None else None


def knows(db: sqlite3.Connection, name: str) -> dict[str, bool]:
    """Return whether the worker knows NAME."""
    return {"known": queries.is_known(db, name)}


LISTED: Mapping[str, Callable[..., dict[str, Any]]] = {
    "training_runs": runs,
    "checkpoints": checkpoints,
}
"""The listings with pages, by the field of their items."""
