"""The router: which worker has what, and which one gets what is new."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from sqlite3 import Connection
from typing import Any

from dreadnode_engine.errors import Refused
from dreadnode_engine.protocol.validation import MAX_SEQ
from dreadnode_engine.service.keys import Keyring, Principal
from dreadnode_engine.service.new_session import new_session
from dreadnode_engine.state.records import Session
from dreadnode_engine.workers import journals
from dreadnode_engine.workers.forwarding import WAIT_SECONDS, Forwarded, WorkerAway, ask
from dreadnode_engine.workers.journals import Journals
from dreadnode_engine.workers.placements import PlacedSession, Placements
from dreadnode_engine.workers.supervisor import Worker

UNLOADED_COST = 0.5
"""What loading a base model counts, in runs of a worker."""
SAMPLES_OF_A_RUN = 4
"""How many waiting sampling requests count as much as a run that computes."""
MARGIN = 2
"""A request goes to another worker that has fewer waiting ones by so many."""
FULL = 64
"""So many waiting requests are worth loading a base model on another worker."""


class Router:
    """Finds and chooses workers. It computes nothing and writes nothing.

    Args:
        workers: all workers, of which some may not serve now.
        placements: what the journals hold.
        keyring: checks the keys of clients, and has the one that opens the workers' own calls.
        journals: are read in place of workers that do not serve now.
    """

    def __init__(
        self, workers: list[Worker], placements: Placements, keyring: Keyring, journals: Journals
    ) -> None:
        self.workers = workers
        self.placements = placements
        self.keyring = keyring
        self.journals = journals
        self._sharing = asyncio.Lock()

    async def call(self, worker: Worker, name: str, fields: object = None) -> Any:
        """Return the response of WORKER to one of the calls between router and workers."""
        return await ask(worker, self._own_call(name, fields))

    async def call_or_read(
        self, worker: Worker, name: str, fields: object, work: Callable[[Connection], Any]
    ) -> Any:
        """Return the response of WORKER, or what WORK finds in its journal."""
        return await self.journals.ask(worker, self._own_call(name, fields), work)

    def _own_call(self, name: str, fields: object) -> Forwarded:
        return Forwarded(
            "GET" if fields is None else "POST",
            f"/api/v1/worker/{name}".encode(),
            {b"X-API-Key": self.keyring.master.encode(), b"Content-Type": b"application/json"},
            b"" if fields is None else json.dumps(fields).encode(),
        )

    async def follow_load(self, worker: Worker, seconds: float) -> None:
        """Ask WORKER how busy it is, every so many SECONDS, until cancelled."""
        while True:
            await worker.ready.wait()
            sent = worker.sent
            try:
                load = await self.call(worker, "load")
            except Refused:
                await asyncio.sleep(seconds)
                continue
            worker.models = set(load["models"])
            worker.see_runs(load["runs"])
            worker.samples, worker.computing = load["samples"], load["computing"]
            # What was sent before the worker was asked is in what it says.
            worker.sent -= sent
            await asyncio.sleep(seconds)

    async def any_worker(self, base_model: str | None = None) -> Worker:
        """Return the worker that is best for something new.

        Args:
            base_model: what it is computed with; None if nothing is.
        """
        ready = [worker for worker in self.workers if worker.ready.is_set()]
        return min(ready or [await self._first_ready()], key=lambda w: _cost(w, base_model))

    async def _first_ready(self) -> Worker:
        tasks = {asyncio.create_task(w.ready.wait()): w for w in self.workers}
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
        if not done:
            raise WorkerAway(next((w for w in self.workers if w.problem), self.workers[0]))
        return tasks[done.pop()]

    async def locate(self, name: str) -> Worker | None:
        """Return the worker that has the run, sampler or request NAME, or checkpoints of a run.

        Raises:
            WorkerAway: No worker has it that serves now.
        """
        if (home := self.placements.home(name)) is not None:
            return self.workers[home]
        found = await self.which_knows(name, self.workers)
        if found is not None:
            self.placements.set_home(name, found.index)
        return found

    async def locate_or_any(self, name: str) -> Worker:
        """Return the worker that has NAME, or any: a worker refuses what no worker has."""
        return (await self.locate(name) if name else None) or await self.any_worker()

    async def which_knows(self, name: str, workers: Iterable[Worker]) -> Worker | None:
        """Return the first of WORKERS that knows NAME; all are asked, also those that restart."""
        asked, named = list(workers), partial(journals.knows, name=name)
        answers = await asyncio.gather(
            *(self.call_or_read(worker, "knows", {"name": name}, named) for worker in asked),
            return_exceptions=True,
        )
        away = None
        for worker, answer in zip(asked, answers, strict=True):
            if isinstance(answer, WorkerAway):
                away = answer
            elif isinstance(answer, BaseException):
                raise answer
            elif answer["known"]:
                return worker
        if away is not None:
            raise away
        return None

    async def create_session(self, who: Principal, body: bytes, key: str | None) -> Session:
        """Create a session on one worker; the same key creates the same one, on any worker."""
        name = self._session_id(who, key) if key is not None else None
        session = new_session(who.subject, body, key, name)
        if (known := self.placements.sessions.get(session.id)) is not None:
            return known.record
        worker = await self.any_worker()
        await self.call(worker, "adopt_session", asdict(session))
        return self.placements.add_session(session, worker.index).record

    def _session_id(self, who: Principal, key: str) -> str:
        text = f"session:{who.subject}:{key}".encode()
        return hmac.new(self.keyring.master.encode(), text, hashlib.sha256).hexdigest()[:32]

    def session(self, who: Principal, name: str) -> PlacedSession | None:
        """Return the session NAME of WHO, if the router knows it."""
        placed = self.placements.sessions.get(name)
        return placed if placed is not None and who.can_access(placed.record.owner) else None

    def workers_of(self, placed: PlacedSession) -> list[Worker]:
        """Return the workers that have a session."""
        return [self.workers[index] for index in sorted(placed.workers)]

    async def ensure_session(self, worker: Worker, placed: PlacedSession) -> None:
        """Add a session to WORKER, which is about to get a run or sampler of it."""
        if worker.index not in placed.workers:
            await self.call(worker, "adopt_session", asdict(placed.record) | {"seen": time.time()})
            placed.workers.add(worker.index)

    async def place(
        self, placed: PlacedSession, name: str, base_model: str | None
    ) -> tuple[Worker, bool]:
        """Return the worker of the run or sampler NAME of a session, and whether it is new there.

        The choice is in memory before anything is sent, so that a repeated request goes there too.
        """
        if new := self.placements.home(name) is None:
            best = await self.any_worker(base_model)
            self.placements.set_home(name, best.index)
            best.add_placed(name)
        worker = self.workers[self.placements.sessions[placed.record.id].homes[name]]
        await self.ensure_session(worker, placed)
        return worker, new

    async def base_model_of(self, path: object) -> str | None:
        """Return the base model of the checkpoint at PATH, if there is one."""
        _, record = await self._lent(path)
        return str(record["base_model"]) if record is not None else None

    async def lend(self, path: object, worker: Worker) -> None:
        """Give WORKER the record of the checkpoint at PATH if another worker has it.

        Without a record it forgets an earlier one, of a checkpoint that was deleted since.
        """
        owner, record = await self._lent(path)
        if _run_of(path) and owner is not worker:
            await self.call(worker, "borrow", {"path": path, "record": record})

    async def reader(self, path: str) -> Worker:
        """Return a worker that serves and can read the checkpoint at PATH, whose files all share.

        Raises:
            WorkerAway: No worker serves now.
        """
        owner = await self.locate(path.removeprefix("tinker://").partition("/")[0])
        if owner is not None and owner.ready.is_set():
            return owner
        worker = await self.any_worker()
        await self.lend(path, worker)
        return worker

    async def _lent(self, path: object) -> tuple[Worker | None, Any]:
        """Return the worker and the record of the checkpoint at PATH."""
        run = _run_of(path)
        owner = await self.locate(run) if run else None
        if owner is None:
            return None, None
        read = partial(journals.checkpoint, path=str(path))
        # Without a record the worker refuses the request in its own words.
        return owner, await self.call_or_read(owner, "lend", {"path": path}, read)

    async def choose_for_sample(self, sampler: str, seq: object) -> Worker | None:
        """Return the worker for one sampling request; a repeated one goes to the same worker."""
        home = await self.locate(sampler)
        placed = self.placements.session_of(sampler)
        if home is None or placed is None or type(seq) is not int or not 0 <= seq < MAX_SEQ:
            return home
        name = f"{sampler}:{seq}"
        if (known := self.placements.request(name)) is not None:
            return self.workers[known]
        holders = self._holders(sampler, home)
        chosen = None
        if sampler in self.placements.restored and len(holders) > 1:
            chosen = await self.which_knows(name, holders)
        if chosen is None:
            chosen = await self._least_busy(sampler, placed, home, holders)
        self.placements.set_request(name, chosen.index)
        chosen.sent += 1
        return chosen

    def _holders(self, sampler: str, home: Worker) -> list[Worker]:
        indices = self.placements.holders.get(sampler, {home.index})
        return [self.workers[index] for index in sorted(indices)]

    async def _least_busy(
        self, sampler: str, placed: PlacedSession, home: Worker, holders: list[Worker]
    ) -> Worker:
        ready = [worker for worker in holders if worker.ready.is_set()]
        if not ready:
            return home
        best = min(ready, key=_waiting)
        others = [w for w in self.workers if w.ready.is_set() and w not in holders]
        if others and home.ready.is_set() and sampler not in self.placements.unshared:
            other = min(others, key=_waiting)
            if _waiting(best) - _waiting(other) >= MARGIN:
                return other if await self._share(sampler, placed, home, other) else best
        return best

    async def _share(
        self, sampler: str, placed: PlacedSession, home: Worker, other: Worker
    ) -> bool:
        """Open SAMPLER on OTHER too, and return whether that is worth it."""
        async with self._sharing:
            if other.index in self.placements.holders.get(sampler, ()):
                return True
            record = await self.call(home, "share_sampler", {"name": sampler})
            if record["inflight"]:
                # Its weights are replaced while it samples, and only its home sees that.
                self.placements.unshared.add(sampler)
                return False
            # Loading a base model takes longer than most requests.
            if record["base_model"] not in other.models and _waiting(home) < FULL:
                return False
            await self.ensure_session(other, placed)
            await self.call(other, "adopt_sampler", record)
            self.placements.holders.setdefault(sampler, {home.index}).add(other.index)
        return True

    async def worker_of_request(self, name: str) -> Worker | None:
        """Return the worker that has the request NAME."""
        queue = name.rpartition(":")[0]
        if (known := self.placements.request(name)) is not None:
            return self.workers[known]
        home = await self.locate(queue)
        if home is None or queue not in self.placements.holders:
            return home
        return await self.which_knows(name, self._holders(queue, home)) or home


def _run_of(path: object) -> str:
    """Return the run of the checkpoint at PATH; empty if that is not a path."""
    if not isinstance(path, str) or not path.startswith("tinker://"):
        return ""
    return path.removeprefix("tinker://").partition("/")[0]


def _waiting(worker: Worker) -> int:
    """Return how much waits for WORKER, in sampling requests."""
    return worker.samples + worker.sent + SAMPLES_OF_A_RUN * worker.computing


def _cost(worker: Worker, base_model: str | None) -> tuple[float, int]:
    unloaded = base_model is not None and base_model not in worker.models
    runs = len(worker.runs) + _waiting(worker) / SAMPLES_OF_A_RUN
    return runs + UNLOADED_COST * unloaded, worker.index
