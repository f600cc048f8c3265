"""What the engine does on its own: free the memory of dead clients, and keep the disk bounded."""

import asyncio
import logging
import shutil
import sqlite3
import time
from functools import partial

from dreadnode_engine.engine import Engine
from dreadnode_engine.scheduling.run_queue import RunLane
from dreadnode_engine.scheduling.sample_queue import SampleLane
from dreadnode_engine.state import records
from dreadnode_engine.state.checkpoints import parse_path
from dreadnode_engine.state.records import Sampler, Session

log = logging.getLogger(__name__)

READ_SECONDS = 3600.0
"""How long an answer that was fetched once stays, for a client that asks again."""
UNNAMED_SAMPLERS = 4
"""How many unnamed samplers of one run keep their weights, however long they are not used."""
SAMPLER_SECONDS = 3600.0
"""How long any unnamed sampler keeps its weights after its last use."""
REPLACED_SECONDS = 60.0
"""How long inflight weights stay after newer ones have replaced them."""


async def keep_house(engine: Engine) -> None:
    """Tidy up again and again, until cancelled."""
    while True:
        try:
            await tidy(engine, time.time())
        except Exception:
            log.exception("tidying up stopped; it is tried again")
        await asyncio.sleep(engine.settings.tidy_seconds)


async def tidy(engine: Engine, now: float) -> None:
    """Do once all that is due at NOW."""
    settings = engine.settings
    await _write_times(engine)
    for session in list(engine.sessions.values()):
        silent = session.seen < now - settings.session_seconds
        for lane in _lanes_of(engine, session):
            lane.paused = silent and session.finished is None
            if silent or session.finished is not None or lane.run.unloaded:
                lane.release()
        over = session.finished or (session.seen + settings.session_seconds)
        if over < now - settings.retention_seconds:
            await _forget_session(engine, session)
    for lane in engine.runs.values():
        for request in lane.waiting_for_gap(now - settings.gap_seconds):
            missing = f"operation {lane.next_seq}, which never came"
            lane.give_up(request, f"Operation {request.seq} waited for {missing}")
    for name, samples in list(engine.sample_lanes.items()):
        _drop_unasked(engine, samples, now)
        if samples.idle and samples.last < now - settings.session_seconds:
            del engine.sample_lanes[name]
            engine.worker.remove(samples)
    open_now = {r.id for lane in engine.sample_lanes.values() for r in lane.open_requests()}
    engine.asked_at = {name: at for name, at in engine.asked_at.items() if name in open_now}
    await _drop_unnamed(engine, now)
    await _drop_expired(engine, now)
    await engine.journal.do(
        lambda db: records.drop_answers(
            db, finished_before=now - settings.retention_seconds, read_before=now - READ_SECONDS
        )
    )


def _drop_unasked(engine: Engine, samples: SampleLane, now: float) -> None:
    """Give up samples whose clients no longer ask for them: dead ones, and those that moved on.

    The SDK asks all the time for what it waits for; should one that was only cut off ask again
    later, it is told that the sample is gone and sends it once more.
    """
    for request in samples.open_requests():
        asked = max(request.created, engine.started, engine.asked_at.get(request.id, 0.0))
        if asked < now - engine.settings.ask_seconds and not engine.waited_for(request.id):
            log.info("nobody asks for %s any more; it is given up", request.id)
            samples.drop(request.id)


def _lanes_of(engine: Engine, session: Session) -> list[RunLane]:
    return [lane for lane in engine.runs.values() if lane.run.session == session.id]


async def _write_times(engine: Engine) -> None:
    sessions = [(session.seen, session.id) for session in engine.sessions.values()]
    runs = [(lane.run.used, lane.run.id) for lane in engine.runs.values()]
    samplers = [(sampler.used, sampler.id) for sampler in engine.samplers.values()]
    read = [(at, request) for request, at in engine.read_at.items()]
    engine.read_at.clear()

    def write(db: sqlite3.Connection) -> None:
        records.touch(db, "sessions", sessions)
        records.touch(db, "runs", runs)
        records.touch(db, "samplers", samplers)
        records.mark_read(db, read)

    await engine.journal.do(write)


async def _forget_session(engine: Engine, session: Session) -> None:
    """Forget a session that ended long ago, with its runs; its named checkpoints stay."""
    for lane in _lanes_of(engine, session):
        engine.worker.remove(lane)
        engine.runs.pop(lane.run.id, None)
        engine.store.forget_snapshots(lane.run.id, keep=None)
    for sampler in [s for s in engine.samplers.values() if s.session == session.id]:
        engine.samplers.pop(sampler.id, None)
        _delete_weights(engine, sampler)
    engine.sessions.pop(session.id, None)
    await engine.journal.do(lambda db: records.forget_session(db, session.id))
    log.info("forgot session %s, which ended long ago", session.id)


async def _drop_unnamed(engine: Engine, now: float) -> None:
    """Delete weights that were saved for one sampler only, when newer ones have taken over."""
    by_run: dict[str, list[Sampler]] = {}
    for sampler in engine.samplers.values():
        if sampler.run is not None and sampler.weights is not None:
            by_run.setdefault(sampler.run, []).append(sampler)
    for samplers in by_run.values():
        samplers.sort(key=lambda sampler: -sampler.created)
        for sampler in samplers[UNNAMED_SAMPLERS:]:
            if sampler.used < now - SAMPLER_SECONDS:
                engine.samplers.pop(sampler.id, None)
                await engine.journal.do(partial(records.forget_sampler, sampler=sampler.id))
                _delete_weights(engine, sampler)

        _drop_replaced(engine, [sampler for sampler in samplers if sampler.inflight], now)


def _drop_replaced(engine: Engine, inflight: list[Sampler], now: float) -> None:
    """Delete weights of a run that newer ones have replaced; INFLIGHT stand newest first."""
    # The computing thread may still be reading what was replaced a moment ago.
    if inflight and inflight[0].created < now - REPLACED_SECONDS:
        for sampler in inflight[1:]:
            _delete_weights(engine, sampler)


def _delete_weights(engine: Engine, sampler: Sampler) -> None:
    """Delete the weights that were saved for SAMPLER, unless another one samples from them."""
    if sampler.run is None:
        return
    folder = engine.store.sampler(sampler.id)
    if not any(other.weights == str(folder) for other in engine.samplers.values()):
        shutil.rmtree(folder, ignore_errors=True)


async def _drop_expired(engine: Engine, now: float) -> None:
    for found in await engine.journal.do(records.checkpoints):
        if found.expires is not None and found.expires <= now:
            await engine.remove_checkpoint(found)
            log.info("deleted %s, whose time was over", parse_path(found.path))
