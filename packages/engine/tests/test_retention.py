"""The disk is bounded: what nobody can need any more is deleted, and nothing else."""

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dreadnode_engine.errors import NotFound
from dreadnode_engine.service import checkpoints, recovery, sessions
from dreadnode_engine.service.cleanup import clean_up
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.settings import Settings
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import parse_path, write_folder
from dreadnode_engine.state.records import Checkpoint, Request, Sampler, new_request

WHO = Principal(MASTER)
HOUR = 3600.0


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(Settings(data_dir=tmp_path, memory_gib=1), {})
    await recovery.start(engine)
    yield engine
    engine.stop()


async def session(engine: Engine) -> str:
    return (
        await sessions.create_session(engine, WHO, b'{"tags": [], "sdk_version": "x"}', None)
    ).id


async def save(
    engine: Engine, session: str, number: int, used: float, *, inflight: bool = False
) -> Path:
    """Save unnamed weights for a sampler of the run `session:train:0`, as the run's lane does."""
    name = f"{session}:sample:{number}"
    folder = engine.context.files.sampler(name)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    sampler = Sampler(
        id=name,
        session=session,
        owner=MASTER,
        base_model="m",
        created=used,
        used=used,
        weights=str(folder),
        run=f"{session}:train:0",
        inflight=inflight,
    )
    await engine.context.journal.do(lambda db: queries.replace(db, sampler))
    engine.context.samplers[name] = sampler
    return folder


def kept(engine: Engine) -> list[int]:
    """Return the numbers of the samplers whose weights are on disk."""
    folders = (engine.settings.data_dir / "samplers").glob("*")
    return sorted(int(folder.name.rsplit(":", 1)[1]) for folder in folders)


def checkpoint(path: str, created: float, expires: float | None) -> Checkpoint:
    """Return a checkpoint of the run `s:train:0` at PATH."""
    return Checkpoint(
        path=path,
        run="s:train:0",
        owner=MASTER,
        kind="training",
        name=path.rsplit("/", 1)[1],
        created=created,
        bytes=0,
        base_model="m",
        rank=1,
        train_mlp=True,
        train_attn=True,
        train_unembed=True,
        expires=expires,
    )


async def test_unnamed_weights_stay_while_used_or_among_the_newest(
    engine: Engine,
) -> None:
    own, now = await session(engine), time.time()
    for number in range(8):
        await save(engine, own, number, used=now + number)
    engine.context.samplers[f"{own}:sample:1"].used = now + HOUR

    await clean_up(engine, now + HOUR + 60)

    assert kept(engine) == [1, 4, 5, 6, 7]
    stored = await engine.context.journal.do(queries.every, Sampler)
    assert {sampler.id for sampler in stored} == engine.context.samplers.keys()
    assert len(stored) == 5


async def test_only_a_few_unnamed_weights_of_a_run_are_kept(
    engine: Engine,
) -> None:
    own, now = await session(engine), time.time()
    most = 0
    for number in range(60):
        # One save every twenty minutes, each sampled from until the next.
        await save(engine, own, number, used=now + 1200 * number)
        await clean_up(engine, now + 1200 * number)
        most = max(most, len(kept(engine)))

    assert most <= 5


async def test_replaced_inflight_weights_are_deleted_soon(
    engine: Engine,
) -> None:
    own, now = await session(engine), time.time()
    folders = [await save(engine, own, n, used=now + n, inflight=True) for n in range(3)]
    for sampler in engine.context.samplers.values():
        sampler.weights = str(folders[-1])

    await clean_up(engine, now + 30)
    at_once = kept(engine)
    await clean_up(engine, now + 120)

    assert at_once == [0, 1, 2]
    assert kept(engine) == [2]
    assert len(engine.context.samplers) == 3


async def test_an_expired_checkpoint_is_deleted_with_its_files(engine: Engine) -> None:
    now = time.time()
    paths = [f"tinker://s:train:0/weights/{name}" for name in ("short", "long", "forever")]
    for path, expires in zip(paths, (now + 60, now + HOUR, None), strict=True):
        engine.context.files.checkpoint(parse_path(path)).mkdir(parents=True)
        found = checkpoint(path, now, expires)
        await engine.context.journal.do(lambda db, found=found: queries.replace(db, found))

    await clean_up(engine, now + 61)

    left = await engine.context.journal.do(queries.checkpoints)
    assert {checkpoint.path for checkpoint in left} == set(paths[1:])
    exist = [engine.context.files.checkpoint(parse_path(path)).is_dir() for path in paths]
    assert exist == [False, True, True]


async def test_old_results_are_deleted_and_their_delivery_stays_recorded(
    engine: Engine,
) -> None:
    own, now = await session(engine), time.time()
    request = new_request(f"{own}:sample:0", 1, "sample", MASTER, b"{}")

    def answer(db: sqlite3.Connection) -> None:
        queries.insert(db, request)
        queries.finish(db, request, "x", b"y" * 1000, keep_body=False)

    await engine.context.journal.do(answer)
    await clean_up(engine, now + 23 * HOUR)
    before = await engine.context.journal.do(queries.find, Request, request.id)
    await clean_up(engine, now + 24.1 * HOUR)
    after = await engine.context.journal.do(queries.find, Request, request.id)

    assert before is not None
    assert before.result == b"y" * 1000
    assert after is not None
    assert (after.result, after.body, after.state) == (None, None, "done")


async def test_a_session_that_ended_long_ago_is_deleted_with_its_records(engine: Engine) -> None:
    own, other, now = await session(engine), await session(engine), time.time()
    await save(engine, own, 0, used=now)
    await save(engine, other, 1, used=now)
    snapshot = engine.context.files.snapshot(f"{own}:train:0", 3)
    snapshot.parent.mkdir(parents=True)
    await sessions.finish_session(engine, WHO, own)
    engine.sessions[other].seen = now + 24 * HOUR

    await clean_up(engine, now + 24 * HOUR + 60)

    assert engine.sessions.keys() == {other}
    assert kept(engine) == [1]


def test_a_failed_save_leaves_nothing_new_and_keeps_the_existing_files(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "adapter").write_text("half")
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "a", lambda folder: None)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "a", half)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []


async def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_bytes(engine: Engine) -> None:
    path = "tinker://s:train:0/weights/killed"
    folder = engine.context.files.checkpoint(parse_path(path))
    (folder / "inner").mkdir(parents=True)
    found = checkpoint(path, 1.0, None)
    await engine.context.journal.do(lambda db: queries.replace(db, found))
    with pytest.MonkeyPatch.context() as patched:
        # Neither a kill nor a disk that fails removes the files.
        patched.setattr(checkpoints.shutil, "rmtree", lambda *_: None)
        await checkpoints.delete_checkpoint(engine, found)
    with pytest.raises(NotFound):
        await engine.checkpoint(WHO, path)

    await clean_up(engine, time.time())

    assert not folder.exists()
    assert await engine.context.journal.do(queries.checkpoints) == []


async def test_what_a_kill_left_of_samplers_and_saves_goes_at_the_next_start(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = await session(engine)
    used = await save(engine, own, 0, used=time.time())
    orphan = used.with_name(f"{own}:sample:1")
    saved = engine.context.files.checkpoint(parse_path("tinker://s:train:0/weights/a"))
    unfinished = saved.with_name(".b.unfinished")
    for folder in (orphan, saved, unfinished):
        folder.mkdir(parents=True)
    monkeypatch.setattr(engine.context.scheduler, "start", lambda: None)  # It runs already.

    await recovery.start(engine)

    assert [f.is_dir() for f in (used, orphan, saved, unfinished)] == [True, False, True, False]
