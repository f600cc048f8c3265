"""Sessions: made, kept alive and finished by clients."""

import time

from dreadnode_engine.errors import Gone
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.service.new_session import new_session
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Session


async def create_session(
    engine: Engine, who: Principal, body: bytes, idempotency_key: str | None
) -> Session:
    """Create a session; the same key returns the same session."""
    session = new_session(who.subject, body, idempotency_key)
    if idempotency_key is not None:
        known = engine.session_keys.get((who.subject, idempotency_key))
        if known is not None:
            return engine.sessions[known]
    await add_session(engine, session)
    return session


async def add_session(engine: Engine, session: Session) -> None:
    """Add SESSION, and write it to the journal."""
    engine.check_owned(session.owner, engine.sessions.values(), "sessions")
    # Known before it is written, so that a repeated call in between finds it.
    engine.add_session(session)
    try:
        await engine.context.journal.do(queries.insert, session)
    except BaseException:
        engine.remove_session(session)
        raise


def heartbeat(engine: Engine, who: Principal, session_id: str) -> None:
    """Record that a client is alive; its paused runs continue."""
    session = engine.session(who, session_id)
    if session.finished is not None:
        raise Gone(f"The session {session_id} is finished and takes no heartbeats")
    session.seen = time.time()
    for queue in engine.runs_of(session):
        if queue.paused:
            queue.paused = False
            engine.context.scheduler.wake(queue)


async def finish_session(engine: Engine, who: Principal, session_id: str) -> None:
    """Finish a session; its memory is freed once its requests are done."""
    session = engine.session(who, session_id)
    session.finished = session.finished or time.time()
    await engine.context.journal.do(queries.replace, session)
