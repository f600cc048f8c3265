"""The journal: whole or not at all, durable when it says so."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from dreadnode_engine.state import queries
from dreadnode_engine.state.journal import Journal
from dreadnode_engine.state.records import Request, Run, Session


def request(seq: int, kind: str = "optim_step") -> Request:
    return Request(f"run:{seq}", "run", seq, kind, "", b"digest", b"body", "queued", created=1.0)


async def test_a_write_is_visible_to_another_connection(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")

    await journal.do(lambda db: queries.insert(db, request(1)))

    other = sqlite3.connect(tmp_path / "j.sqlite3")
    assert other.execute("SELECT id FROM requests").fetchall() == [("run:1",)]
    journal.close()


async def test_a_hundred_concurrent_writers_all_succeed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")

    await asyncio.gather(
        *(journal.do(lambda db, i=i: queries.insert(db, request(i))) for i in range(100))
    )

    assert len(await journal.do(queries.queued_requests)) == 100
    journal.close()


async def test_a_failed_write_is_rolled_back_without_affecting_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")

    def half(db: sqlite3.Connection) -> None:
        queries.insert(db, request(2))
        raise ValueError("half way")

    outcomes = await asyncio.gather(
        journal.do(lambda db: queries.insert(db, request(1))),
        journal.do(half),
        journal.do(lambda db: queries.insert(db, request(3))),
        return_exceptions=True,
    )

    assert isinstance(outcomes[1], ValueError)
    assert [r.seq for r in await journal.do(queries.queued_requests)] == [1, 3]
    journal.close()


async def test_a_request_runs_once_and_its_result_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    one, two, three = request(1), request(2, "save_weights"), request(3)
    for each in (one, two, three):
        await journal.do(lambda db, each=each: queries.insert(db, each))

    await journal.do(lambda db: queries.finish(db, one, "m", b"answer", keep_body=True))
    await journal.do(lambda db: queries.finish(db, two, "m", b"path", keep_body=False))
    await journal.do(lambda db: queries.fail(db, three, "no", "user"))

    kept = await journal.do(queries.find, Request, "run:1")
    assert kept is not None
    assert (kept.state, kept.result, kept.body) == ("done", b"answer", b"body")
    shape = {"rank": 1, "train_mlp": True, "train_attn": True, "train_unembed": True}
    owned = {"owner": "", "base_model": "m", "created": 0.0}
    run = Run(id="run", session="s", used=0.0, seed=0, **owned, **shape)  # type: ignore[arg-type]
    await journal.do(lambda db: queries.insert(db, run))
    assert await journal.do(queries.finished_seqs) == {"run": {1, 2, 3}}
    replay = await journal.do(lambda db: queries.to_replay(db, "run", 0, 9))
    assert [r.seq for r in replay] == [1]
    with pytest.raises(ValueError, match="not in memory"):
        _ = (await journal.do(queries.find, Request, "run:2")).payload  # type: ignore[union-attr]
    journal.close()


async def test_replay_starts_at_the_newest_snapshot(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    for seq in (1, 2, 3):
        one = request(seq)
        await journal.do(lambda db, one=one: queries.insert(db, one))
        await journal.do(
            lambda db, one=one: queries.finish(db, one, "m", b"answer", keep_body=True)
        )

    await journal.do(lambda db: queries.set_snapshot(db, "run", 2))

    assert [r.seq for r in await journal.do(lambda db: queries.to_replay(db, "run", 0, 9))] == [3]
    journal.close()


async def test_old_results_and_results_fetched_some_time_ago_are_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    for seq in (1, 2, 3):
        one = request(seq)
        await journal.do(lambda db, one=one: queries.insert(db, one))
        await journal.do(lambda db, one=one: queries.finish(db, one, "m", b"a", keep_body=False))
    await journal.do(lambda db: db.execute("UPDATE requests SET finished = seq * 100"))
    await journal.do(lambda db: queries.mark_read(db, [(350.0, "run:3")]))

    await journal.do(lambda db: queries.delete_results(db, finished_before=150, read_before=360))

    answers = await journal.do(
        lambda db: db.execute("SELECT result IS NULL FROM requests ORDER BY seq").fetchall()
    )
    assert [row[0] for row in answers] == [1, 0, 1]
    journal.close()


async def test_sessions_are_restored_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    session = Session("s", "job-1", 1.0, 2.0, display_name="a name")
    await journal.do(lambda db: queries.insert(db, session))
    journal.close()

    again = Journal(tmp_path / "j.sqlite3")

    assert await again.do(queries.every, Session) == [session]
    again.close()
