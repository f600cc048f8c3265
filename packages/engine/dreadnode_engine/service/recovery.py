"""How an engine starts on a data directory that has been used before."""

import asyncio
import time
from pathlib import Path

from dreadnode_engine.service.engine import Engine
from dreadnode_engine.state import queries
from dreadnode_engine.state.crash_guard import count_interruptions
from dreadnode_engine.state.records import Run, Sampler, Session


async def start(engine: Engine) -> None:
    """Restore what the journal of ENGINE holds, and start computing."""
    context = engine.context
    journal, interrupted = context.journal, context.crash_guard.take_interrupted()
    await journal.do(count_interruptions, interrupted)
    for session in await journal.do(queries.every, Session):
        # A client that was alive before the restart counts as alive until it is silent again.
        session.seen = max(session.seen, time.time() if session.finished is None else 0.0)
        engine.add_session(session)
    context.samplers |= {s.id: s for s in await journal.do(queries.every, Sampler)}
    used = {Path(s.weights) for s in context.samplers.values() if s.weights is not None}
    await asyncio.to_thread(context.files.delete_unused, used)
    finished = await journal.do(queries.finished_seqs)
    for run in await journal.do(queries.every, Run):
        engine.add_run(run, finished.get(run.id, set()))
        context.files.delete_snapshots(run.id, keep=run.snapshot)
    for request in await journal.do(queries.queued_requests):
        if request.queue in engine.runs:
            engine.runs[request.queue].add(request)
        elif request.queue in context.samplers:
            engine.sample_queue(context.samplers[request.queue]).add(request)
        else:
            # Its run or sampler was deleted while it waited.
            await journal.do(queries.drop, request)
            continue
        engine.backlog.add(request)
    context.scheduler.start()
