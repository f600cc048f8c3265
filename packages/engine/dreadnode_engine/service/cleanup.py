"""The clean-up: frees the memory of clients that are gone, and bounds what lies on disk."""

import asyncio
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterable

from dreadnode_engine.scheduling.sample_queue import SampleQueue
from dreadnode_engine.service.checkpoints import delete_checkpoint
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.uploads import delete_expired_uploads
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Sampler, Session

log = logging.getLogger(__name__)

READ_SECONDS = 3600.0
"""How long a result stays after it was fetched, for a client that fetches it again."""
UNNAMED_SAMPLERS = 4
"""How many unnamed samplers of one run keep their weights, used or not."""
SAMPLER_SECONDS = 3600.0
"""How long an unnamed sampler keeps its weights after its last use."""
REPLACED_SECONDS = 60.0
"""How long inflight weights stay after newer ones replaced them."""


async def clean_up_forever(engine: Engine) -> None:
    """Clean up at every interval until cancelled."""
    while True:
        try:
            await clean_up(engine, time.time())
        except Exception:
            log.exception("the clean-up failed; it is tried again")
        await asyncio.sleep(engine.settings.cleanup_seconds)


async def clean_up(engine: Engine, now: float) -> None:
    """Do everything once that is due at NOW."""
    settings = engine.settings
    await _write_times(engine)
    over = [session for session in engine.sessions.values() if _is_over(engine, session, now)]
    await _delete_sessions(engine, over)
    for queue in engine.runs.values():
        for request in queue.waiting_for_gap(now - settings.gap_seconds):
            queue.abandon(
                request,
                f"Operation {request.seq} waited {settings.gap_seconds:g} seconds for operation "
                f"{queue.next_seq}, which was never sent",
            )
    for name, samples in list(engine.sample_queues.items()):
        _drop_unpolled(engine, samples, now)
        if samples.idle and samples.last < now - settings.session_seconds:
            del engine.sample_queues[name]
            engine.context.scheduler.remove(samples)
    open_ids = {r.id for samples in engine.sample_queues.values() for r in samples.open_requests()}
    engine.polled_at = {name: at for name, at in engine.polled_at.items() if name in open_ids}
    await _delete_unnamed(engine, now)
    for found in await engine.context.journal.do(queries.expired_checkpoints, now):
        await delete_checkpoint(engine, found)
        log.info("deleted %s, which expired", found.path)
    await delete_expired_uploads(engine, now)
    await engine.context.journal.do(
        queries.delete_results,
        finished_before=now - settings.retention_seconds,
        read_before=now - READ_SECONDS,
    )


def _is_over(engine: Engine, session: Session, now: float) -> bool:
    """Free the memory of a session whose client is gone; return whether it ended long ago."""
    settings = engine.settings
    silent = session.seen < now - settings.session_seconds
    for queue in engine.runs_of(session):
        queue.paused = silent and session.finished is None
        if silent or session.finished is not None or queue.run.unloaded:
            queue.release()
    ended = session.finished or (session.seen + settings.session_seconds)
    return ended < now - settings.retention_seconds


def _drop_unpolled(engine: Engine, samples: SampleQueue, now: float) -> None:
    """Drop sampling requests whose clients no longer poll for them.

    The SDK polls all the time for what it waits for. If a client that was cut off polls again
    later, it hears that the request was dropped and sends it once more.
    """
    for request in samples.open_requests():
        polled = max(request.created, engine.started, engine.polled_at.get(request.id, 0.0))
        waiting = engine.context.futures.has_waiter(request.id)
        if polled < now - engine.settings.unpolled_seconds and not waiting:
            log.info("nobody polls for %s; it is dropped", request.id)
            samples.drop(request.id)


async def _write_times(engine: Engine) -> None:
    """Write the times of last use that have changed since they were written last."""
    since, engine.times_written = engine.times_written, time.time()
    sessions = [(s.seen, s.id) for s in engine.sessions.values() if s.seen >= since]
    runs = [(q.run.used, q.run.id) for q in engine.runs.values() if q.run.used >= since]
    samplers = [(s.used, s.id) for s in engine.context.samplers.values() if s.used >= since]
    read = [(at, request) for request, at in engine.read_at.items()]
    engine.read_at.clear()

    def write(db: sqlite3.Connection) -> None:
        queries.touch(db, "sessions", sessions)
        queries.touch(db, "runs", runs)
        queries.touch(db, "samplers", samplers)
        queries.mark_read(db, read)

    await engine.context.journal.do(write)


async def _delete_sessions(engine: Engine, over: list[Session]) -> None:
    """Delete sessions with their runs and samplers; their named checkpoints stay."""
    ids = {session.id for session in over}
    samplers = engine.context.samplers
    dropped = [s for s in samplers.values() if s.session in ids]
    for sampler in dropped:
        del samplers[sampler.id]
    for session in over:
        engine.remove_session(session)
        await engine.context.journal.do(queries.delete_session, session.id)
        log.info("deleted session %s, which ended long ago", session.id)
    _delete_weights(engine, dropped)


async def _delete_unnamed(engine: Engine, now: float) -> None:
    """Delete weights that were saved for one sampler when newer ones are in use."""
    by_run: dict[str, list[Sampler]] = {}
    for sampler in engine.context.samplers.values():
        if sampler.run is not None and sampler.weights is not None:
            by_run.setdefault(sampler.run, []).append(sampler)
    dropped: list[Sampler] = []
    for samplers in by_run.values():
        samplers.sort(key=lambda sampler: -sampler.created)
        for sampler in samplers[UNNAMED_SAMPLERS:]:
            if sampler.used < now - SAMPLER_SECONDS:
                engine.context.samplers.pop(sampler.id, None)
                await engine.context.journal.do(queries.delete_sampler, sampler.id)
                dropped.append(sampler)
        inflight = [sampler for sampler in samplers if sampler.inflight]
        # The computing thread may still read what was replaced a moment ago.
        if inflight and inflight[0].created < now - REPLACED_SECONDS:
            dropped += inflight[1:]
    _delete_weights(engine, dropped)


def _delete_weights(engine: Engine, dropped: Iterable[Sampler]) -> None:
    """Delete the weights that were saved for the DROPPED, unless another sampler uses them."""
    used = {sampler.weights for sampler in engine.context.samplers.values()}
    for sampler in dropped:
        folder = engine.context.files.sampler(sampler.id)
        if sampler.run is not None and str(folder) not in used:
            shutil.rmtree(folder, ignore_errors=True)
