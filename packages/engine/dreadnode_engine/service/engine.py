"""The engine's state and lifecycle, and how clients find what is theirs.

Nothing here or in the other modules of this folder computes: these calls run on the event loop,
check a request, write it to the journal, and hand it to a queue.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.compute.loaded_model import Device
from dreadnode_engine.errors import NotFound, RateLimited, Refused
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.scheduling.residency import Residency
from dreadnode_engine.scheduling.run_queue import RunQueue
from dreadnode_engine.scheduling.sample_queue import SampleQueue
from dreadnode_engine.service.backlog import Backlog
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.settings import Settings
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import parse_path
from dreadnode_engine.state.records import Checkpoint, Request, Run, Sampler, Session

MAX_OWNED = 10_000
"""Sessions, runs and samplers that one owner may have; ended ones count until they are deleted."""


class Engine:
    """Sessions, runs and samplers with their queues. Make it on the event loop.

    Attributes:
        sessions, runs, sample_queues: by id; the queues of samples by base model.
        session_runs: the ids of each session's runs.
        session_keys: the session that an owner made with an idempotency key.
        read_at: when each result was first fetched, until the clean-up writes it.
        finishing: the locks of uploads that are being finished, by their id.
        polled_at: when each open sampling request was last polled.
        borrowed: checkpoints of other workers that a request is about to load, by path.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ServedModel],
        shared_dir: Path | None = None,
    ) -> None:
        self.settings = settings
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, RunQueue] = {}
        self.sample_queues: dict[str, SampleQueue] = {}
        self.session_runs: dict[str, set[str]] = {}
        self.session_keys: dict[tuple[str, str | None], str] = {}
        if Device.of(settings).mixed:
            models = {name: served.in_bfloat16() for name, served in models.items()}
        residency = Residency(settings, models, self.runs, self.sample_queues)
        self.context = Context(settings, models, residency, shared_dir)
        self.backlog = Backlog(settings)
        self.finishing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.read_at: dict[str, float] = {}
        self.polled_at: dict[str, float] = {}
        self.borrowed: dict[str, Checkpoint] = {}
        self.started = time.time()
        self.times_written = 0.0

    def stop(self) -> None:
        """Finish the current slice, snapshot every run, and close the journal."""
        self.context.crash_guard.stop()
        self.context.scheduler.stop()
        for queue in self.runs.values():
            queue.evict()
        self.context.journal.close()
        self.context.crash_guard.close()

    def session(self, who: Principal, session_id: str) -> Session:
        """Return a session of WHO."""
        session = self.sessions.get(session_id)
        if session is None or not who.can_access(session.owner):
            raise NotFound(f"The session `{session_id[:100]}` does not exist")
        return session

    def run(self, who: Principal, run_id: str) -> RunQueue:
        """Return the queue of a run of WHO."""
        queue = self.runs.get(run_id)
        if queue is None or not who.can_access(queue.run.owner):
            raise NotFound(f"The training run `{run_id[:200]}` does not exist")
        return queue

    def sampler(self, who: Principal, sampler_id: str) -> Sampler:
        """Return a sampler of WHO."""
        sampler = self.context.samplers.get(sampler_id)
        if sampler is None or not who.can_access(sampler.owner):
            raise NotFound(f"The sampler `{sampler_id[:200]}` does not exist")
        return sampler

    def base_model(self, model_id: str) -> ServedModel:
        """Return the base model MODEL_ID."""
        if (served := self.context.models.get(model_id)) is None:
            known = ", ".join(sorted(self.context.models)) or "none"
            raise Refused(f"This engine does not serve `{model_id[:200]}`; it serves {known}")
        return served

    async def checkpoint(
        self, who: Principal, path: str, reader: Principal | None = None
    ) -> Checkpoint:
        """Return a checkpoint that WHO or READER may read: an own one or a published one."""
        name = str(parse_path(path))
        found = await self.context.journal.do(queries.find, Checkpoint, name)
        found = found or self.borrowed.get(name)
        expired = found is not None and found.expires is not None and found.expires <= time.time()
        readers = (who, reader or who)
        if (
            found is None
            or expired
            or not (found.public or any(each.can_access(found.owner) for each in readers))
        ):
            raise NotFound(f"The checkpoint `{name[:300]}` does not exist")
        return found

    async def accept(
        self, request: Request, also: Callable[[sqlite3.Connection], None] | None = None
    ) -> tuple[Request, bool]:
        """Write REQUEST to the journal, and with it what ALSO writes.

        Returns:
            The request and whether it is new. A repeated submit returns the one accepted before.
        """
        # Counted before the write, so that many requests at once cannot exceed the limits.
        reserved = self.backlog.reserve(request)

        def write(db: sqlite3.Connection) -> tuple[Request, bool]:
            known = queries.find(db, Request, request.id)
            if known is not None and known.state != "dropped":
                return known, False
            if also is not None:
                also(db)
            queries.replace(db, request)
            return request, True

        new = False
        try:
            accepted, new = await self.context.journal.do(write)
        finally:
            if reserved and not new:
                self.backlog.remove(request)
        if accepted.digest != request.digest:
            raise Refused(
                f"Sequence number {request.seq} of {request.queue} belongs to another request; "
                "use the next number"
            )
        if new:
            # The body is on disk; it is read again when the request's turn comes.
            request.body = None
        return accepted, new

    def check_owned(self, owner: str, existing: Collection[Any], what: str) -> None:
        """Refuse another session, run or sampler of an OWNER who has too many.

        Args:
            owner: Who would have another one.
            existing: All of its kind.
            what: Its kind, in the plural.
        """
        # Counting takes time only where there are many in all.
        if len(existing) < MAX_OWNED:
            return
        if sum(each.owner == owner for each in list(existing)) >= MAX_OWNED:
            raise RateLimited(
                f"At most {MAX_OWNED:,} {what} of yours can exist; finish some sessions and try "
                "again"
            )

    def add_session(self, session: Session) -> None:
        """Add SESSION."""
        self.sessions[session.id] = session
        if session.idempotency_key is not None:
            self.session_keys[session.owner, session.idempotency_key] = session.id

    def remove_session(self, session: Session) -> None:
        """Remove SESSION and its runs."""
        for queue in self.runs_of(session):
            self.remove_run(queue.run)
        self.session_runs.pop(session.id, None)
        self.sessions.pop(session.id, None)
        self.session_keys.pop((session.owner, session.idempotency_key), None)

    def add_run(self, run: Run, finished: set[int]) -> RunQueue:
        """Add the queue of RUN; FINISHED are the numbers of its operations that have ended."""
        queue = RunQueue(self.context, run, finished, self.backlog.remove)
        self.runs[run.id] = queue
        self.session_runs.setdefault(run.session, set()).add(run.id)
        self.context.scheduler.add(queue)
        return queue

    def remove_run(self, run: Run) -> None:
        """Remove the queue of RUN and its snapshots."""
        if (queue := self.runs.pop(run.id, None)) is not None:
            self.context.scheduler.remove(queue)
        self.session_runs.get(run.session, set()).discard(run.id)
        self.context.files.delete_snapshots(run.id, keep=None)

    def runs_of(self, session: Session) -> list[RunQueue]:
        """Return the queues of the runs of SESSION."""
        return [self.runs[run] for run in self.session_runs.get(session.id, ()) if run in self.runs]

    def sample_queue(self, sampler: Sampler) -> SampleQueue:
        """Return the queue of all samples on the base model of SAMPLER; made if absent."""
        name = sampler.base_model
        if name not in self.sample_queues:
            self.sample_queues[name] = SampleQueue(self.context, name, self.backlog.remove)
            self.context.scheduler.add(self.sample_queues[name])
        return self.sample_queues[name]
