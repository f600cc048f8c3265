"""Accepted work is bounded, and lies on disk until its turn."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.errors import Overloaded, RateLimited, Refused
from dreadnode_engine.http.bodies import MAX_JSON, BodyReader
from dreadnode_engine.scheduling import sample_queue
from dreadnode_engine.service import cleanup, recovery, sampling, sessions, training
from dreadnode_engine.service.backlog import LEAST_BYTES, Backlog
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.settings import MIB, Settings
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Request, Session, new_request, new_run

WHO = Principal(MASTER)


@pytest.fixture
async def engine(tmp_path: Path, models_dir: Path) -> AsyncIterator[Engine]:
    settings = Settings(data_dir=tmp_path, memory_gib=4, backlog_mib_per_run=1, backlog_mib=2)
    engine = Engine(settings, {"m": inspect_model("m", models_dir / "llama")})
    yield engine
    engine.stop()


def request(queue: str, seq: int, size: int, owner: str = MASTER) -> Request:
    return new_request(queue, seq, "optim_step", owner, b"x" * size)


def test_small_requests_are_bounded_in_number(tmp_path: Path) -> None:
    backlog = Backlog(Settings(data_dir=tmp_path, backlog_mib_per_run=1, backlog_mib=4))

    for seq in range(MIB // LEAST_BYTES):
        backlog.reserve(request("a", seq, 1))

    with pytest.raises(RateLimited):
        backlog.reserve(request("a", seq + 1, 1))


def test_waiting_requests_are_limited_per_run_and_in_total(tmp_path: Path) -> None:
    backlog = Backlog(Settings(data_dir=tmp_path, backlog_mib_per_run=1, backlog_mib=2))
    first = request("a", 1, MIB)
    backlog.add(first)
    backlog.add(request("b", 1, MIB))

    with pytest.raises(RateLimited, match="requests wait in a"):
        backlog.reserve(request("a", 2, 1))
    with pytest.raises(RateLimited, match="your requests wait"):
        backlog.reserve(request("c", 1, 1))
    with pytest.raises(Overloaded, match="try again later"):
        backlog.reserve(request("c", 1, 1, owner="another"))
    # A repeated submit is not refused, and is not counted twice.
    assert not backlog.reserve(first)
    backlog.remove(first)
    assert backlog.reserve(request("c", 1, MIB, owner="another"))

    assert backlog.bytes == 2 * MIB
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
    assert engine.backlog.bytes == 2 * LEAST_BYTES
    await recovery.start(engine)
    result = await _until_done(engine, waiting.id)
    assert result.state == "done"
    assert engine.backlog.bytes == 0


async def _until_done(engine: Engine, request_id: str) -> Request:
    from dreadnode_engine.service import results

    while (found := await results.retrieve(engine, WHO, request_id)).state == "queued":
        pass
    return found


async def test_cleaning_up_thousands_of_idle_sessions_and_runs_is_cheap(engine: Engine) -> None:
    now = time.time()
    served = engine.base_model("m")
    for number in range(5000):
        session = Session(f"s{number}", MASTER, now, now)
        engine.add_session(session)
        shape = {"train_mlp": True, "train_attn": True, "train_unembed": True}
        engine.add_run(new_run(session, 0, served, None, rank=1, seed=0, **shape), set())
    await cleanup.clean_up(engine, now)
    started = time.process_time()
    for _ in range(10):
        await cleanup.clean_up(engine, now + 1)

    # Nothing has changed, so nothing is written: a tenth of a second for all ten is plenty.
    assert time.process_time() - started < 1.0
    assert len(engine.runs) == 5000


@pytest.mark.parametrize("kind", ["sessions", "runs", "samplers"])
async def test_one_owner_has_a_bounded_number_of_everything(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("dreadnode_engine.service.engine.MAX_OWNED", 3)
    opened = [await _session(engine)]

    async def create(number: int, who: Principal = WHO) -> None:
        fields = {"session_id": opened[0], "base_model": "m"}
        if kind == "sessions":
            await _session(engine, who)
        elif kind == "runs":
            body = json.dumps(fields | {"model_seq_id": number}).encode()
            await training.create_model(engine, who, body)
        else:
            body = json.dumps(fields | {"sampling_session_seq_id": number}).encode()
            await sampling.create_sampler(engine, who, body)

    for number in range(2 if kind == "sessions" else 3):
        await create(number)
    with pytest.raises(RateLimited, match=f"At most 3 {kind} of yours"):
        await create(3)

    opened[0] = await _session(engine, Principal("another"))
    await create(0, Principal("another"))


async def _session(engine: Engine, who: Principal = WHO) -> str:
    body = b'{"tags": [], "sdk_version": "x"}'
    return (await sessions.create_session(engine, who, body, None)).id


async def test_waiting_samples_of_one_sampler_stay_on_disk_until_others_have_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_queue, "OPEN_REQUESTS", 2)
    fields = {"session_id": await _session(engine), "base_model": "m"}
    body = json.dumps(fields | {"sampling_session_seq_id": 0}).encode()
    sampler = (await sampling.create_sampler(engine, WHO, body)).id
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]}
    wanted = {"prompt": prompt, "sampling_params": {"max_tokens": 2}, "num_samples": 1}
    accepted = [
        await sampling.sample(
            engine,
            WHO,
            json.dumps({**wanted, "sampling_session_id": sampler, "seq_id": number}).encode(),
        )
        for number in range(8)
    ]
    queue = next(iter(engine.sample_queues.values()))
    most = 0
    opened = queue._open

    class Watched(dict[str, Any]):
        def __setitem__(self, name: str, value: Any) -> None:
            nonlocal most
            super().__setitem__(name, value)
            most = max(most, len(self))

    queue._open = Watched(opened)
    await recovery.start(engine)
    results = [await _until_done(engine, request.id) for request, _ in accepted]

    assert {result.state for result in results} == {"done"}
    assert most == 2
    assert engine.backlog.bytes == 0


async def test_a_body_that_stops_or_is_too_large_is_refused() -> None:
    async def stops() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def grows() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MIB

    reader = BodyReader(silence_seconds=0.05)
    for stream, message in ((stops(), "stopped arriving"), (grows(), "larger than 4 MiB")):
        request = SimpleNamespace(stream=lambda stream=stream: stream)
        with pytest.raises(Refused, match=message):
            await reader.read(request, MAX_JSON)  # type: ignore[arg-type]

    assert reader._in_flight == 0
