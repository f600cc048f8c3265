"""What a worker does for its router, which has several workers work as one engine."""

import time
from dataclasses import replace
from typing import Any

from dreadnode_engine.service.engine import Engine
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Checkpoint, Sampler

MAX_BORROWED = 10_000
"""Records of other workers' checkpoints that are in memory."""


async def adopt_sampler(engine: Engine, sampler: Sampler) -> None:
    """Add a sampler of another worker, whose weights are on the shared storage."""
    # Without its run: the worker that wrote the weights deletes them.
    adopted = replace(sampler, run=None, used=time.time())
    await engine.context.journal.do(queries.replace, adopted)
    engine.context.samplers[sampler.id] = adopted


def borrow(engine: Engine, path: str, checkpoint: Checkpoint | None) -> None:
    """Remember a checkpoint of another worker for the request that loads it; None forgets it."""
    engine.borrowed.pop(path, None)
    if checkpoint is not None:
        engine.borrowed[path] = checkpoint
    while len(engine.borrowed) > MAX_BORROWED:
        del engine.borrowed[next(iter(engine.borrowed))]


async def knows(engine: Engine, name: str) -> bool:
    """Whether NAME is a session, run, sampler, request or upload, or a run with checkpoints."""
    if name in engine.sessions or name in engine.runs or name in engine.context.samplers:
        return True
    return await engine.context.journal.do(queries.is_known, name)


def load(engine: Engine) -> dict[str, Any]:
    """Return how busy this worker is.

    Returns:
        `models`: those in memory; `samples`: sampling requests that are not done; `runs`: of
        clients that are there; `computing`: runs with operations that are not done.
    """
    runs = [queue for queue in engine.runs.values() if not queue.paused and not queue.run.unloaded]
    sessions = engine.sessions
    alive = [
        queue
        for queue in runs
        if (session := sessions.get(queue.run.session)) and session.finished is None
    ]
    return {
        "models": list(engine.context.residency.bases),
        "samples": sum(len(queue.open_requests()) for queue in engine.sample_queues.values()),
        "runs": [queue.run.id for queue in alive],
        "computing": sum(not queue.idle for queue in runs),
    }
