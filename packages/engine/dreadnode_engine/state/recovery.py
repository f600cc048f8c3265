"""How everything comes back when an engine starts on a data directory that has been used."""

import time
from functools import partial
from typing import TYPE_CHECKING

from dreadnode_engine.state import records
from dreadnode_engine.state.crash_guard import count_lost

if TYPE_CHECKING:
    from dreadnode_engine.engine import Engine


async def recover(engine: "Engine") -> None:
    """Give ENGINE the sessions, runs, samplers and open requests that its journal holds."""
    journal, lost = engine.journal, engine.underway.take()
    await journal.do(lambda db: count_lost(db, lost))
    engine.sessions = {s.id: s for s in await journal.do(records.all_sessions)}
    engine.samplers |= {s.id: s for s in await journal.do(records.all_samplers)}
    for run in await journal.do(records.all_runs):
        finished = await journal.do(partial(records.finished_seqs, lane=run.id))
        engine.add_run(run, finished)
        engine.store.forget_snapshots(run.id, keep=run.snapshot)
    for request in await journal.do(records.queued):
        if request.lane in engine.runs:
            engine.runs[request.lane].add(request)
        elif request.lane in engine.samplers:
            engine.sample_lane(engine.samplers[request.lane]).add(request)
    # A client that was alive before the engine went away is alive until it is silent again.
    for session in engine.sessions.values():
        session.seen = max(session.seen, time.time() if session.finished is None else 0.0)
