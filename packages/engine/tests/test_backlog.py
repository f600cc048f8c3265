"""Accepted work is bounded, and lies on disk until its turn."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.errors import Overloaded, RateLimited
from dreadnode_engine.service import cleanup, recovery, sessions, training
from dreadnode_engine.service.backlog import Backlog
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.settings import MIB, Settings
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Request, Session, new_request

WHO = Principal(MASTER)


@pytest.fixture
async def engine(tmp_path: Path, models_dir: Path) -> AsyncIterator[Engine]:
    settings = Settings(data_dir=tmp_path, memory_gib=4, backlog_mib_per_run=1, backlog_mib=2)
    engine = Engine(settings, {"m": inspect_model("m", models_dir / "llama")})
    yield engine
    engine.stop()


def request(queue: str, seq: int, size: int) -> Request:
    return new_request(queue, seq, "optim_step", MASTER, b"x" * size)


def test_waiting_requests_are_limited_per_run_and_in_total(tmp_path: Path) -> None:
    backlog = Backlog(Settings(data_dir=tmp_path, backlog_mib_per_run=1, backlog_mib=2))
    first = request("a", 1, MIB)
    backlog.add(first)
    backlog.add(request("b", 1, MIB))

    with pytest.raises(RateLimited, match="wait for results"):
        backlog.check(request("a", 2, 1))
    with pytest.raises(Overloaded, match="try again later"):
        backlog.check(request("c", 1, 1))
    backlog.check(first)  # A repeated submit is not refused.
    backlog.remove(first)
    backlog.check(request("c", 1, MIB))

    assert backlog.bytes == MIB
    assert RateLimited.status == 429
    assert Overloaded.status == 503


async def test_a_waiting_body_is_stored_on_disk_and_not_in_memory(engine: Engine) -> None:
    session = await sessions.create_session(engine, WHO, b'{"tags": [], "sdk_version": "x"}', None)
    fields = {"session_id": session.id, "model_seq_id": 0, "base_model": "m"}
    made = await training.create_model(engine, WHO, json.dumps(fields).encode())
    run = made.queue
    body = json.dumps({"model_id": run, "seq_id": 1, "adam_params": {"learning_rate": 0.1}})

    waiting = await training.submit(engine, WHO, run, 1, "optim_step", body.encode())
    stored = await engine.context.journal.do(lambda db: queries.find_body(db, waiting.id))

    assert waiting.body is None
    assert stored == body.encode()
    assert engine.backlog.bytes == made.body_bytes + len(body)
    await recovery.start(engine)
    result = await _until_done(engine, waiting.id)
    assert result.state == "done"
    assert engine.backlog.bytes == 0


async def _until_done(engine: Engine, request_id: str) -> Request:
    from dreadnode_engine.service import results

    while (found := await results.retrieve(engine, WHO, request_id)).state == "queued":
        pass
    return found


async def test_cleaning_up_thousands_of_idle_sessions_is_cheap(engine: Engine) -> None:
    now = time.time()
    for number in range(5000):
        engine.add_session(Session(f"s{number}", MASTER, now, now))
    await cleanup.clean_up(engine, now)
    started = time.process_time()
    for _ in range(10):
        await cleanup.clean_up(engine, now + 1)

    # Nothing has changed, so nothing is written: a tenth of a second for all ten is plenty.
    assert time.process_time() - started < 1.0
    assert engine.sessions_of[MASTER] == 5000
