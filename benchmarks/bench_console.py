"""Pages of the console on the app that `dn serve` runs, against the empty page of their layout.

A job with 100,000 points and 100,000 log lines is opened beside one without any, in turns within
one run: its page, and the data of its charts and its news, which the page's script loads. The first
reading of a long history is shown by itself. Then the list of 10,000 jobs and the page of a job
beside the list of workspaces, which is the layout and hardly more; and 500 followers of one job
beside one, by the statements that they cost the database.
Aims: at most 2 times an empty job; at most 3 times an empty page; 500 followers what one costs.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from dreadnode_api import migrations
from dreadnode_api.auth import service
from dreadnode_api.auth.sessions import start_session
from dreadnode_api.main import create_app
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.jobs import Event, Job, MetricPoints, Tally
from dreadnode_api.settings import Settings
from sqlalchemy import event, insert, select

POINTS = LINES = 100_000
JOBS = 10_000
FOLLOWERS = 500
ROUNDS = 25
METRICS = ("train/loss", "train/learning_rate", "train/num_tokens")


def job(org_id: str, workspace_id: str, events: int, status: str) -> dict[str, Any]:
    """Return the row of a job."""
    return {
        "id": new_id(),
        "org_id": org_id,
        "workspace_id": workspace_id,
        "lineage": "none",
        "name": "harbour desk",
        "backend": "tinker",
        "trainer_type": "sft",
        "algorithm": "sft",
        "model": "Qwen/Qwen3-8B",
        "trained_model": "Qwen/Qwen3-8B",
        "config": {"learning_rate": 1e-4, "max_sequence_length": 4096, "steps": POINTS},
        "preflight": {"rows": 100, "usable": 100},
        "progress": {"step": events, "steps": POINTS, "loss": 1.0, "seconds_left": 60.0},
        "status": status,
        "attempt": 1,
        "events": events,
        "started_at": now() - timedelta(hours=1),
    }


async def fill(app: Any) -> tuple[str, str, str]:
    """Fill the database; return the cookie, the id of the long job and that of the empty one."""
    database = app.state.database
    await migrations.upgrade(database)
    async with database.writing() as session:
        token = await service.create_first(session)
    assert token is not None
    caller = await app.state.authenticator.holder(token)
    async with database.writing() as session:
        cookie = await start_session(session, caller)
        workspace = (await session.scalars(select(Workspace))).one()
        rows = [job(caller.org_id, workspace.id, 0, "completed") for _ in range(JOBS - 2)]
        empty = job(caller.org_id, workspace.id, 0, "running")
        long = job(caller.org_id, workspace.id, LINES, "running")
        await session.execute(insert(Job), [*rows, empty, long])
        for status, number in (("completed", JOBS - 2), ("running", 2)):
            counts = {"backend": "tinker", "trainer_type": "sft", "number": number}
            session.add(Tally(workspace_id=workspace.id, status=status, **counts))
        for start in range(1, LINES + 1, 1000):
            numbers = range(start, start + 1000)
            await session.execute(insert(Event), [line(long["id"], n) for n in numbers])
            await session.execute(insert(MetricPoints), [points(long["id"], n) for n in numbers])
    return cookie, long["id"], empty["id"]


def line(job_id: str, number: int) -> dict[str, Any]:
    """Return the row of a log line."""
    about = {"type": "step_complete", "level": "info", "data": {}, "created_at": now()}
    return {"job_id": job_id, "number": number, "message": f"step {number}: loss 1.0", **about}


def points(job_id: str, number: int) -> dict[str, Any]:
    """Return the row of the metrics of a step."""
    values = {name: [math.exp(-number / 10_000) + math.sin(number)] for name in METRICS}
    return {
        "job_id": job_id,
        "number": number,
        "step": number,
        "lists": {"steps": [number], **values},
    }


async def main() -> None:
    """Measure, and print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder), rate_limit=0))
        cookie, long, empty = await fill(app)
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://api",
            cookies={"dreadnode_session": cookie},
            headers={"Accept": "text/html", "Accept-Encoding": "gzip"},
            timeout=300,
        )

        async def get(*paths: str) -> int:
            size = 0
            for path in paths:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
                size += len(answer.content)
            return size

        def opening(job_id: str) -> tuple[str, ...]:
            base = f"/ws/default/jobs/{job_id}"
            return base, f"{base}/series", f"{base}/live?after={LINES}"

        await get("/workspaces")
        started = time.perf_counter()
        size = await get(f"/ws/default/jobs/{long}/series")
        seconds = time.perf_counter() - started
        print(f"first reading of {POINTS:,} steps: {seconds:.2f} s, {size:,} bytes when thinned")
        await compare(
            "opening a job with 100,000 points and lines, beside an empty one",
            2,
            lambda: get(*opening(long)),
            lambda: get(*opening(empty)),
        )
        for name, path in (
            ("the list of 10,000 jobs", "/ws/default/jobs"),
            ("the page of a job", f"/ws/default/jobs/{long}"),
            ("the catalog", "/ws/default/catalog"),
        ):
            await compare(
                f"{name}, beside an empty page of the same layout",
                3,
                lambda path=path: get(path),
                lambda: get("/workspaces"),
            )
        await followers(app, lambda: get(f"/ws/default/jobs/{long}/live?after={LINES}"))
        await client.aclose()
        await app.state.database.dispose()


async def compare(
    name: str, aim: int, ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Awaitable[Any]]
) -> None:
    """Time both in turns, and print the median of their ratios."""
    times = []
    for _ in range(ROUNDS + 3):
        taken = []
        for work in (ours, theirs):
            started = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - started)
        times.append(taken)
    ratio = statistics.median(a / b for a, b in times[3:])
    first, second = (statistics.median(each) * 1000 for each in zip(*times[3:], strict=True))
    print(f"{name}: {first:.1f} ms to {second:.1f} ms, {ratio:.2f} times (aim: at most {aim})")


async def followers(app: Any, follow: Callable[[], Awaitable[Any]]) -> None:
    """Print how many statements one follower and many cost in the same time."""
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(app.state.database.engine.sync_engine, "before_cursor_execute", count)
    for number in (1, FOLLOWERS):
        await asyncio.sleep(1.2)
        statements, started = 0, time.perf_counter()
        await asyncio.gather(*(follow() for _ in range(number)))
        seconds = time.perf_counter() - started
        print(f"{number} followers at once: {statements} statements, {seconds:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
