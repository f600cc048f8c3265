"""Copies of a server that is running, and what a server restored from one still knows."""

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.db import Database
from dreadnode_api.maintenance.backup import back_up
from dreadnode_api.models.jobs import Job
from dreadnode_api.settings import Settings, SettingsError
from sqlalchemy import select


@pytest.fixture
def at_home(sqlite_template: Path, tmp_path: Path) -> Callable[[str], Settings]:
    """Settings for a data directory with its own SQLite database."""

    def make(name: str) -> Settings:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dreadnode.db").write_bytes(sqlite_template.read_bytes())
        return Settings(data_dir=folder)

    return make


def test_a_backup_contains_databases_files_and_keys_and_no_logs(
    at_home: Callable[[str], Settings], tmp_path: Path
) -> None:
    settings = at_home("data")
    for name in ("blobs/ab/abcd", "checkpoints/run/weights/final/x.safetensors", "engine.key",
                 "logs/api.log", "jobs/1/1/output.log", "host.id", "serve.lock",
                 "blobs/.incoming-1", "blobs/.incoming-2/adapter_config.json"):  # fmt: skip
        path = settings.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with sqlite3.connect(settings.data_dir / "engine.sqlite3") as engine:
        engine.execute("PRAGMA journal_mode=WAL")
        engine.execute("CREATE TABLE runs (id TEXT)")
        engine.execute("INSERT INTO runs VALUES ('run-1')")

    made = back_up(settings, tmp_path / "copy")

    engine.close()
    copied = {str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*")}
    files = {name for name in copied if (tmp_path / "copy" / name).is_file()}
    assert files == {
        "backup.json", "dreadnode.db", "engine.sqlite3", "engine.key", "blobs/ab/abcd",
        "checkpoints/run/weights/final/x.safetensors",
    }  # fmt: skip
    assert (made.databases, made.vanished, made.note) == (
        ["dreadnode.db", "engine.sqlite3"], [], None,
    )  # fmt: skip
    with sqlite3.connect(tmp_path / "copy" / "engine.sqlite3") as copy:
        assert copy.execute("SELECT id FROM runs").fetchall() == [("run-1",)]
    assert json.loads((tmp_path / "copy" / "backup.json").read_text())["files"] == 5
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_backup_made_under_load_is_consistent_and_contains_every_referenced_blob(
    api: Any, tmp_path: Path
) -> None:
    begun, stop = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await api.push(version=f"1.0.{number}", body=b'{"prompt":"%d","response":"x"}' % number)
            begun.set()
        return number

    working = asyncio.create_task(work())
    async with asyncio.timeout(60):
        await begun.wait()
    await asyncio.to_thread(back_up, api.settings, tmp_path / "copy")
    stop.set()
    pushed = await working

    with sqlite3.connect(tmp_path / "copy" / "dreadnode.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        named = [row[0] for row in copy.execute("SELECT sha256 FROM dataset_versions")]
    assert 0 < len(named) <= pushed
    for digest in named:
        assert (tmp_path / "copy" / "blobs" / digest[:2] / digest).is_file()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_server_restored_from_a_backup_has_its_jobs(service: Any, tmp_path: Path) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config={"steps": 2})
    await service.ended(job["id"])

    command = [sys.executable, "-m", "dreadnode_api", "backup", str(tmp_path / "copy")]
    ran = await asyncio.to_thread(
        subprocess.run, command, env=service.environment(), capture_output=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["target"] == str(tmp_path / "copy")
    restored = Database(f"sqlite:///{tmp_path / 'copy' / 'dreadnode.db'}".replace(
        "sqlite://", "sqlite+aiosqlite://"
    ))  # fmt: skip
    async with restored.reading() as session:
        found = (await session.scalars(select(Job))).one()
    assert (found.id, found.status) == (job["id"], "completed")
    await restored.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_backup_with_postgresql_contains_a_dump_that_restores_the_jobs(
    api: Any, postgres_server: Any, tmp_path: Path
) -> None:
    await api.push()
    job = await api.job()
    settings = api.settings.model_copy(
        update={"pg_dump": str(postgres_server.bin_path / "pg_dump")}
    )

    made = await asyncio.to_thread(back_up, settings, tmp_path / "copy")

    assert (made.databases, made.note) == (["dreadnode.pgdump"], None)
    assert stat.S_IMODE((tmp_path / "copy" / "dreadnode.pgdump").stat().st_mode) == 0o600
    listed = await asyncio.to_thread(
        subprocess.run,
        [postgres_server.bin_path / "pg_restore", "--data-only", "--table=jobs", "--file=-",
         tmp_path / "copy" / "dreadnode.pgdump"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert job["id"] in listed.stdout


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("/nowhere/pg_dump", "is not installed here"),
        ("/bin/false", "failed (it ended with code 1)"),
    ],
)
def test_a_backup_without_its_postgresql_database_is_marked_incomplete(
    at_home: Callable[[str], Settings], tmp_path: Path, program: str, why: str
) -> None:
    url = "postgresql://someone:secret@localhost/dreadnode"
    settings = Settings(data_dir=at_home("data").data_dir, database_url=url, pg_dump=program)

    made = back_up(settings, tmp_path / "copy")

    assert made.databases == []
    assert made.note is not None
    assert f"`{program}` {why}" in made.note
    assert "secret" not in made.note
    assert made.target == str(tmp_path / "copy.incomplete")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.incomplete", "data"]


@pytest.mark.parametrize(
    ("target", "words"), [("data/copy", "lies in the data directory"), ("there", "exists already")]
)
def test_a_dangerous_backup_target_is_refused_before_anything_is_written(
    at_home: Callable[[str], Settings], tmp_path: Path, target: str, words: str
) -> None:
    settings = at_home("data")
    (tmp_path / "there").mkdir()

    with pytest.raises(SettingsError, match=words):
        back_up(settings, tmp_path / target)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "there"]
    assert [p.name for p in settings.data_dir.iterdir()] == ["dreadnode.db"]


def test_a_damaged_database_is_reported_and_no_backup_is_created(
    at_home: Callable[[str], Settings], tmp_path: Path
) -> None:
    settings = at_home("data")
    (settings.data_dir / "dreadnode.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)

    with pytest.raises(SettingsError, match="The backup failed"):
        back_up(settings, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()
