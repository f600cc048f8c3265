"""Traces of sessions: when each request waited and was computed, and how fast.

A trace is JSON in Chrome's trace event format, which Perfetto opens. It is made of what the journal
keeps of every request, page by page, so it takes no disk and little memory whatever its length.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from dreadnode_engine.errors import NotFound
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Request, Run, Sampler, Session

INTERVALS = 2000
"""Intervals that a trace is divided into for its counters."""
SHORTEST = 0.1
"""Seconds of the shortest interval."""
TRAINING, SAMPLING = 1, 2
"""Process ids of the two groups of tracks."""
COUNTERS = (
    "requests waiting",
    "training tokens per second",
    "prompt tokens per second",
    "sampled tokens per second",
    "sequences being sampled",
)

Event = dict[str, Any]


class Queue(NamedTuple):
    """A run or sampler of the session, with the track of its requests."""

    process: int
    track: int
    name: str
    base_model: str


class Trace:
    """The trace of SESSION with its RUNS and SAMPLERS, whose last request ended at END.

    `after` has the queue and number of the last request so far: the next page follows it.
    """

    def __init__(
        self, session: Session, runs: Sequence[Run], samplers: Sequence[Sampler], end: float
    ) -> None:
        self.session = session
        self.after = ("", -1)
        self._end = end
        self._origin = session.created
        self._width = max(SHORTEST, (end - session.created) / INTERVALS)
        self._counters: dict[str, dict[int, float]] = {name: {} for name in COUNTERS}
        self._queues: dict[str, Queue] = {}
        groups: tuple[tuple[int, Sequence[Run | Sampler]], ...] = (
            (TRAINING, runs),
            (SAMPLING, samplers),
        )
        for process, found in groups:
            for track, each in enumerate(found, 1):
                name = each.id.removeprefix(f"{session.id}:")
                self._queues[each.id] = Queue(process, track, name, each.base_model)

    def head(self) -> str:
        """Return the beginning of the file: what the trace is of, and the names of its tracks."""
        about = {
            "session_id": self.session.id,
            "display_name": self.session.display_name,
            "started": self.session.created,
            "counter_seconds": self._width,
        }
        first = {"displayTimeUnit": "ms", "otherData": about}
        return f'{json.dumps(first)[:-1]}, "traceEvents": [\n{_lines(self._names())}'

    def page(self, requests: Sequence[Request]) -> str:
        """Return the events of REQUESTS, one page of them."""
        self.after = requests[-1].queue, requests[-1].seq
        events = _lines(event for request in requests for event in self._events(request))
        return f",\n{events}" if events else ""

    def tail(self) -> str:
        """Return the end of the file, with the counters; all pages come before."""
        counters = _lines(self._counter_events())
        return f",\n{counters}\n]}}\n" if counters else "\n]}\n"

    def _names(self) -> Iterator[Event]:
        """Yield the names of the tracks."""
        for process, name in ((TRAINING, "training"), (SAMPLING, "sampling")):
            yield _named("process_name", process, 0, f"{name} of session {self.session.id}")
        for queue in self._queues.values():
            name = f"{queue.name} on {queue.base_model}"
            yield _named("thread_name", queue.process, queue.track, name)

    def _events(self, request: Request) -> Iterator[Event]:
        """Yield what happened to REQUEST: its wait, and its computing."""
        queue = self._queues.get(request.queue)
        if queue is None:
            return
        end = request.finished or self._end
        # A request that failed before it was computed, or is not done, has only waited.
        started = min(request.started or end, end)
        args = {"seq": request.seq, "state": request.state, **json.loads(request.work or "{}")}
        yield from self._between(queue, request, "wait", request.created, started, args)
        self._count("requests waiting", request.created, started, started - request.created)
        if request.started is None:
            return
        if queue.process == TRAINING:
            # Operations of a run follow one another, so they share one track.
            yield {
                **self._event(queue, request.kind, "X", started),
                "dur": round((end - started) * 1e6),
                "args": args,
            }
        else:
            yield from self._between(queue, request, request.kind, started, end, args)
        self._count_tokens(queue, args, started, end)

    def _counter_events(self) -> Iterator[Event]:
        """Yield the counters of all requests so far."""
        for name, values in self._counters.items():
            # A zero after each interval that is followed by none.
            for place in sorted(values.keys() | {place + 1 for place in values}):
                yield {
                    "name": name,
                    "ph": "C",
                    "pid": TRAINING if name.startswith("training") else SAMPLING,
                    "ts": round(place * self._width * 1e6),
                    "args": {"value": values.get(place, 0.0) / self._width},
                }

    def _count_tokens(
        self, queue: Queue, args: Mapping[str, Any], started: float, end: float
    ) -> None:
        if queue.process == TRAINING:
            self._count("training tokens per second", started, end, args.get("tokens", 0))
            return
        computed = args.get("prompt_tokens", 0) - args.get("cached_tokens", 0)
        self._count("prompt tokens per second", started, end, computed)
        self._count("sampled tokens per second", started, end, args.get("sampled_tokens", 0))
        sequences = args.get("sequences", 0) * (end - started)
        self._count("sequences being sampled", started, end, sequences)

    def _count(self, name: str, start: float, end: float, amount: float) -> None:
        """Spread AMOUNT evenly over the intervals from START to END."""
        if not amount:
            return
        values = self._counters[name]
        first, last = (max(0.0, at - self._origin) / self._width for at in (start, end))
        span = last - first
        for place in range(int(first), int(last) + 1):
            share = (min(place + 1, last) - max(place, first)) / span if span > 0 else 1.0
            values[place] = values.get(place, 0.0) + amount * share

    def _event(self, queue: Queue, name: str, phase: str, at: float) -> Event:
        """Return an event without its details; times are microseconds since the session began."""
        when = round((at - self._origin) * 1e6)
        return {"name": name, "ph": phase, "pid": queue.process, "tid": queue.track, "ts": when}

    def _between(
        self,
        queue: Queue,
        request: Request,
        name: str,
        start: float,
        end: float,
        args: Mapping[str, Any],
    ) -> Iterator[Event]:
        """Yield both ends of an interval that may overlap others of its track."""
        own = {"cat": f"{name} {queue.name}", "id": f"{request.id} {name}"}
        yield {**self._event(queue, name, "b", start), **own, "args": args}
        yield {**self._event(queue, name, "e", end), **own}


def _lines(events: Iterable[Event]) -> str:
    return ",\n".join(map(json.dumps, events))


def _named(what: str, process: int, track: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


def open_trace(db: sqlite3.Connection, session: str | None) -> Trace:
    """Return the trace of SESSION; None is the session that was created last.

    Raises:
        NotFound: the journal has no such session.
    """
    found = queries.find_session(db, session)
    if found is None:
        raise NotFound(
            f"The session `{session[:100]}` does not exist"
            if session
            else "This engine has no session yet; clients create them"
        )
    runs, samplers = queries.queues_of(db, found.id)
    end = queries.last_request(db, found.id, time.time())
    return Trace(found, runs, samplers, max(end, found.created))


def write_trace(db: sqlite3.Connection, trace: Trace, to: TextIO) -> None:
    """Write TRACE into the file TO."""
    to.write(trace.head())
    while page := queries.requests_of(db, trace.session.id, trace.after):
        to.write(trace.page(page))
    to.write(trace.tail())
