"""A database or a disk that fails: a 503 that can be repeated, and one line of the log."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode_api import logs, storage_errors
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.main import create_app
from dreadnode_api.settings import Settings
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
ROW = b'{"prompt": "a", "response": "b"}\n'


@pytest.fixture(autouse=True)
def _no_earlier_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_logged", {})


def check(answer: httpx2.Response, message: str) -> None:
    """Return if an answer is the documented 503."""
    assert answer.status_code == 503, answer.text
    body = answer.json()
    assert (body["code"], body["type"]) == (503, "server_error")
    assert body["detail"].startswith(message)
    assert body["detail"].endswith("; try again in a few seconds")
    assert int(answer.headers["Retry-After"]) > 0


async def impatient(api: Any, *statements: str) -> None:
    """Have every new connection to SQLite run STATEMENTS and wait only briefly for a lock."""

    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in ("PRAGMA busy_timeout=50", *statements):
            cursor.execute(statement)
        cursor.close()

    await api.database.engine.dispose()
    event.listen(api.database.engine.sync_engine, "connect", prepare)


@contextmanager
def locked(api: Any) -> Iterator[None]:
    """Hold the write lock of the SQLite database, as a long write of another process does."""
    path = make_url(api.settings.database_url).database
    assert path is not None
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def create_token(api: Any, number: int = 0) -> httpx2.Response:
    body = {"name": f"token {number}"}
    answer: httpx2.Response = await api("POST", "/org/acme/tokens", json=body)
    return answer


async def push(api: Any, number: int = 0) -> httpx2.Response:
    path = f"/org/acme/capabilities/rows/9.{number}.0"
    answer: httpx2.Response = await api("PUT", path, json={"prompt": "Be brief. " * 50})
    return answer


async def create_job(api: Any, number: int = 0) -> httpx2.Response:
    answer: httpx2.Response = await api.create(name=f"job {number}")
    return answer


async def ready(api: Any, number: int = 0) -> httpx2.Response:
    answer: httpx2.Response = await api.client.get("/health/ready")
    return answer


WRITES = [create_token, push, create_job, ready]


@one_database
@pytest.mark.parametrize("write", WRITES)
async def test_a_locked_database_is_a_503_and_the_next_request_succeeds(
    api: Any, write: Callable[[Any], Any]
) -> None:
    await api.push()
    await impatient(api)
    with locked(api):
        refused = await write(api)
        read = await api("GET", "/org/acme/members")
    succeeded = await write(api)

    check(refused, "The database is locked")
    assert read.status_code == 200
    assert succeeded.is_success, succeeded.text


@one_database
@pytest.mark.parametrize("write", [create_token, push, create_job])
async def test_a_full_database_disk_is_a_503(api: Any, write: Callable[..., Any]) -> None:
    await api.push()
    path = make_url(api.settings.database_url).database
    assert path is not None
    with closing(sqlite3.connect(path)) as other:
        [(pages,)] = other.execute("PRAGMA page_count")
    # SQLite refuses the first write that needs another page, as it does on a full disk.
    await impatient(api, f"PRAGMA max_page_count={pages}")

    answers = []
    while not answers or (answers[-1].is_success and len(answers) < 500):
        answers.append(await write(api, len(answers)))
    read = await api("GET", "/org/acme/members")

    check(answers[-1], "The disk of the database is full")
    assert read.status_code == 200


@pytest.mark.parametrize("path", ["datasets/rows/1.0.0", "datasets/other/1.0.0"])
async def test_a_full_blob_store_disk_is_a_503_and_nothing_is_stored(
    api: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    @contextmanager
    def full(self: BlobStore) -> Iterator[Path]:
        yield Path("/dev/full")

    with monkeypatch.context() as patched:
        patched.setattr(BlobStore, "temporary_file", full)
        refused = await api("PUT", f"/org/acme/{path}", content=ROW)
    missing = await api("GET", f"/org/acme/{path}")
    succeeded = await api("PUT", f"/org/acme/{path}", content=ROW)

    check(refused, "The disk is full")
    assert missing.status_code == 404
    assert succeeded.status_code == 201


@pytest.fixture(params=["port", "socket"])
async def away(api: Any, request: pytest.FixtureRequest) -> AsyncIterator[httpx2.AsyncClient]:
    """The same service, whose database cannot be reached."""
    url = make_url(api.settings.database_url)
    if url.get_backend_name() == "sqlite":
        unreachable = url.set(database="/nowhere/dreadnode.db")
    elif request.param == "port":
        unreachable = url.set(host="127.0.0.1", port=1, query={})
    else:
        unreachable = url.set(query={"host": "/nowhere"})
    settings: Settings = api.settings.model_copy(
        update={"database_url": unreachable.render_as_string(hide_password=False)}
    )
    app = create_app(settings)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    headers = {"X-API-Key": api.keys["admin"]}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://api", headers=headers
    ) as client:
        yield client
    await app.state.authenticator.close()
    await app.state.database.dispose()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health/ready"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/user"),
        ("GET", "/api/v1/training/catalog"),
        ("POST", "/api/v1/org/acme/tokens"),
        ("PUT", "/api/v1/org/acme/datasets/rows/1.0.0"),
    ],
)
async def test_an_unreachable_database_is_a_503_on_every_route(
    away: httpx2.AsyncClient, method: str, path: str
) -> None:
    answer = await away.request(method, path, content=ROW if method != "GET" else None)

    check(answer, "The database cannot be")
    assert (await away.get("/health/live")).status_code == 200


@postgres_only
async def test_a_connection_ended_by_postgresql_is_a_503_or_replaced(api: Any) -> None:
    with pytest.raises(DBAPIError) as ended:
        async with api.database.reading() as session:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    after = await create_token(api)

    assert storage_errors.describe(ended.value) is not None
    assert after.status_code == 201


async def test_one_failure_is_one_line_of_the_log(
    away: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        await away.get("/api/v1/user")

    lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "The database cannot be" in lines[0].getMessage()
    assert lines[0].exc_info is None


def test_after_a_minute_the_failure_is_logged_again_with_its_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: present)
    log = logging.getLogger("dreadnode_api.x")
    for _ in range(5):
        logs.trouble(log, "disk", "the disk is full")
    present += logs.TROUBLE_SECONDS + 1
    logs.trouble(log, "disk", "the disk is full")

    messages = [each.getMessage() for each in caplog.records]
    assert messages == [
        "the disk is full",
        "the disk is full; 4 more like this in the minutes before",
    ]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        sqlite3.OperationalError("no such column: x"),
        OSError(2, "No such file or directory"),
        TimeoutError(),
        ConnectionRefusedError(111, "of something that is not the database"),
    ],
)
def test_bugs_and_other_failures_are_not_storage_failures(error: Exception) -> None:
    assert storage_errors.describe(error) is None
