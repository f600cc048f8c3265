"""What followers of a job see, read from the database once for all of them.

A feed reads what is new of its job when a follower asks and the last reading is older than a
second; followers that ask meanwhile wait for that one reading. It keeps the thinned metrics, the
newest events, and the parts of the page that change, rendered once. So the database does the same
work for 500 followers as for one.
"""

import asyncio
import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import find_workspace
from dreadnode_api.checkpoints.records import job_checkpoints
from dreadnode_api.console.thinning import MetricHistory, Value, joined_lists
from dreadnode_api.db import Database
from dreadnode_api.errors import plain
from dreadnode_api.jobs.service import get_job
from dreadnode_api.jobs.waiting import Waiting, explain_waiting
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import ENDED, Event, Job, MetricPoints
from dreadnode_api.pricing.budget import limit_of
from dreadnode_api.pricing.ledger import cost_view
from dreadnode_api.settings import Settings

FRESH_SECONDS = 1.0
EVENTS_KEPT = 200
"""How many of the newest events a feed keeps; who has seen fewer loads the page's data again."""
FEEDS_KEPT = 64
ENCODED_KEPT = 32
BATCH = 500


@dataclass(frozen=True, slots=True)
class JobState:
    """What changes of a job's page while it runs, besides metrics and log."""

    job: Job
    waiting: Waiting | None
    cost: Mapping[str, Any]
    checkpoints: Sequence[Checkpoint]


async def job_state(session: AsyncSession, job: Job, settings: Settings) -> JobState:
    """Read the state of JOB."""
    limit = None if job.status in ENDED else await limit_of(session, job)
    return JobState(
        job=job,
        waiting=await explain_waiting(session, job, settings),
        cost=cost_view(job, limit),
        checkpoints=await job_checkpoints(session, job.id),
    )


Points = Mapping[str, tuple[list[float], list[Value]]]
"""Steps and values by metric."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event has added."""

    number: int
    points: Points
    line: Mapping[str, Any] | None


Parts = Callable[[JobState], Mapping[str, str]]
"""Renders the parts of the page by the ids of their elements."""


class JobFeed:
    """The shared state of one job."""

    def __init__(
        self, database: Database, settings: Settings, place: tuple[str, str, str], parts: Parts
    ) -> None:
        self._database = database
        self._settings = settings
        self._org_id, self._workspace, self._job_id = place
        self._render = parts
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        # The attempt and the end up to which metrics were read: both replace metrics.
        self._read_of: tuple[int, bool] | None = None
        self._points_number = 0
        self._deltas: deque[Delta] = deque(maxlen=EVENTS_KEPT)
        self._since = 0
        self._encoded: dict[tuple[int, str], bytes] = {}
        self._parts: Mapping[str, str] = {}
        self.history = MetricHistory()
        self.number = 0
        self.has_ended = False
        self.name = ""

    async def current(self) -> "JobFeed":
        """Return this feed, at most a second old.

        Raises:
            NotFound: the job does not exist any more.
        """
        if time.monotonic() - self._read_at > FRESH_SECONDS or self._reading is not None:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
                self._reading.add_done_callback(self._has_read)
            # It is not the follower's own: one that disconnects must not end it for the others.
            await asyncio.shield(self._reading)
        return self

    def since(self, number: int, digest: str) -> bytes:
        """Return what is new after the event NUMBER for who has the parts of DIGEST, as JSON."""
        key = (number, digest)
        if key not in self._encoded:
            if len(self._encoded) == ENCODED_KEPT:
                self._encoded.clear()  # Followers that keep up have seen the same event.
            self._encoded[key] = self._encode(number, digest)
        return self._encoded[key]

    def _encode(self, number: int, digest: str) -> bytes:
        body: dict[str, Any] = {"number": self.number, "ended": self.has_ended}
        current = f"{hash(tuple(self._parts.items())) & 0xFFFFFFFF:x}"
        if digest != current:
            body |= {"parts": dict(self._parts), "digest": current}
        if number < self._since or number > self.number:
            # It has missed events, or knows those of another server.
            body["reset"] = True
        else:
            new = [delta for delta in self._deltas if delta.number > number]
            body["lines"] = [delta.line for delta in new if delta.line is not None]
            body["points"] = _joined(new)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )

    def _has_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # The followers raise it.

    async def _read(self) -> None:
        workspace = await find_workspace(self._database, self._org_id, self._workspace)
        async with self._database.reading() as session:
            job = await get_job(session, workspace.id, self._job_id)
            state = await job_state(session, job, self._settings)
            if job.events - self.number > EVENTS_KEPT:
                self._start_at(job.events - EVENTS_KEPT)
            events = await self._new_events(session, job)
            replaced = (job.attempt, job.status in ENDED)
            if replaced != self._read_of or any(e.type == "training_start" for e in events):
                # A start drops the points after its checkpoint, and the end replaces all of them.
                self.history, self._points_number = MetricHistory(), 0
                if self._read_of is not None:
                    self._start_at(job.events)
                self._read_of = replaced
            points = await self._new_points(session, job)
        for event in events:
            if event.number > self.number:
                self._deltas.append(Delta(event.number, points.get(event.number, {}), _line(event)))
        if len(self._deltas) == EVENTS_KEPT:
            self._since = max(self._since, self._deltas[0].number - 1)
        self.number, self.has_ended = job.events, job.status in ENDED
        self.name = job.name or job.id
        self._parts = self._render(state)
        self._encoded.clear()
        self._read_at = time.monotonic()

    def _start_at(self, number: int) -> None:
        """Keep no event up to NUMBER; followers that have not seen it load the data again."""
        self.number = self._since = number
        self._deltas.clear()

    async def _new_events(self, session: AsyncSession, job: Job) -> Sequence[Any]:
        found = await session.execute(
            select(Event.number, Event.type, Event.level, Event.message, Event.created_at)
            .where(Event.job_id == job.id, Event.number > self.number, Event.number <= job.events)
            .order_by(Event.number)
        )
        return found.all()

    async def _new_points(self, session: AsyncSession, job: Job) -> dict[int, Points]:
        """Add the points that are new to the history, and return them by their event's number."""
        added: dict[int, Points] = {}
        rows = await session.stream(
            select(MetricPoints.number, MetricPoints.lists)
            .where(
                MetricPoints.job_id == job.id,
                MetricPoints.number > self._points_number,
                MetricPoints.number <= job.events,
            )
            .order_by(MetricPoints.number)
            .execution_options(yield_per=BATCH)
        )
        async for part in rows.partitions():
            old = [lists for number, lists in part if number <= self.number]
            for lists in joined_lists(old):
                self.history.add(lists)
            for number, lists in part[len(old) :]:
                added[number] = self.history.add(lists)
            await asyncio.sleep(0)  # A long history must not keep other requests waiting.
        self._points_number = job.events
        return added


def _line(event: Any) -> Mapping[str, Any] | None:
    if event.message is None:
        return None
    return {
        "cursor": event.number,
        "time": event.created_at.isoformat().replace("+00:00", "Z"),
        "level": event.level,
        "message": plain(event.message),
    }


def _joined(deltas: Sequence[Delta]) -> dict[str, tuple[list[float], list[Value]]]:
    joined: dict[str, tuple[list[float], list[Value]]] = {}
    for delta in deltas:
        for name, (steps, values) in delta.points.items():
            known = joined.setdefault(name, ([], []))
            known[0].extend(steps)
            known[1].extend(values)
    return joined


class JobFeeds:
    """The feeds of jobs that somebody follows; those that nobody asks for longest are dropped."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._feeds: OrderedDict[tuple[str, str, str], JobFeed] = OrderedDict()

    async def get(self, org_id: str, workspace: str, job_id: str, parts: Parts) -> JobFeed:
        """Return the feed of a job, at most a second old.

        Raises:
            NotFound: there is no such workspace or job.
        """
        place = (org_id, workspace, job_id)
        feed = self._feeds.get(place)
        if feed is None:
            feed = self._feeds[place] = JobFeed(self._database, self._settings, place, parts)
        self._feeds.move_to_end(place)
        if len(self._feeds) > FEEDS_KEPT:
            self._feeds.popitem(last=False)
        try:
            return await feed.current()
        except Exception:
            self._feeds.pop(place, None)
            raise
