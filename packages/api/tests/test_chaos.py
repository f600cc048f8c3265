"""Kills at random, a full disk and a database that goes away: each accepted job ends truthfully.

`CHAOS_SEED` picks another order of events, `CHAOS_KILLS` and `CHAOS_JOBS` a longer run. With the
real engine and the real runtime it is `tests/test_chaos_of_a_whole_server.py` that strikes.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_api.models.jobs import Event, Job
from dreadnode_api.models.webhooks import Announcement
from dreadnode_api.settings import Settings
from sqlalchemy import make_url, select

SEED = int(os.environ.get("CHAOS_SEED", "5"))
KILLS = int(os.environ.get("CHAOS_KILLS", "8"))
AWAY_SECONDS = 1.5
JOBS = int(os.environ.get("CHAOS_JOBS", "10"))
STEPS = 5
RUNTIME = Path(__file__).with_name("chaos_runtime.py")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As for other tests, with more at once, and attempts enough for any order of kills."""
    return settings.model_copy(
        update={
            "runtime_command": (sys.executable, str(RUNTIME)),
            "attempts": 100,
            "jobs_at_once": 4,
            "jobs_at_once_per_workspace": 4,
        }
    )


def running(service: Any) -> Counter[str]:
    """Return how many sandboxes each job has at this moment; their supervisors do not count."""
    found: Counter[str] = Counter()
    for process in service.sandboxes():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "--job-id" in line and str(RUNTIME) in line:
                found[line[line.index("--job-id") + 1]] += 1
    return found


async def watch(service: Any, most: Counter[str]) -> None:
    """Keep the most sandboxes that each job ever had at once."""
    while True:
        most |= running(service)
        await asyncio.sleep(0.1)


def kill_one(service: Any, chance: random.Random) -> str:
    """Kill a process of the service, or a sandbox, or the supervisor over one."""
    victim = chance.choice(["serve", "dispatch", "sandbox", "sandbox"])
    if victim == "sandbox":
        alive = sorted(service.sandboxes(), key=lambda process: process.pid)
        if alive:
            with contextlib.suppress(psutil.Error):
                chance.choice(alive).kill()
        return victim
    service.send(victim, signal.SIGKILL)
    service.start(victim)
    return victim


async def fill_the_disk(service: Any) -> None:
    """Have every write of the service and of new sandboxes refused for a while."""
    limited = [
        psutil.Process(process.pid)
        for name in ("serve", "dispatch")
        for process in service.processes[name][-1:]
    ]
    for process in limited:
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    await asyncio.sleep(AWAY_SECONDS)
    for process in limited:
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def take_the_database_away(request: pytest.FixtureRequest, url: str) -> None:
    """Stop PostgreSQL and start it again; keep others from SQLite's file for as long."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        with contextlib.closing(sqlite3.connect(str(address.database))) as held:
            held.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(2 * AWAY_SECONDS)
        return
    server = request.getfixturevalue("postgres_server")
    stopped = psutil.Process(server.get_pid())
    stopped.send_signal(signal.SIGINT)
    await asyncio.to_thread(stopped.wait, 30)
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(server.ensure_postgres_running)


async def jobs(service: Any) -> list[Job]:
    async with service.api.database.reading() as session:
        return list(await session.scalars(select(Job)))


async def told(service: Any, job_id: str) -> Counter[str]:
    """Return which events of a job are kept, however often each was told."""
    async with service.api.database.reading() as session:
        found = await session.scalars(select(Event).where(Event.job_id == job_id))
        return Counter(json.dumps([e.type, e.data.get("step")]) for e in found)


def acknowledged(service: Any, job_id: str) -> Counter[str]:
    """Return which events the sandboxes of a job got an answer to."""
    found: Counter[str] = Counter()
    for output in (service.api.settings.data_dir / "jobs" / job_id).glob("*/output*.log"):
        for line in output.read_text().splitlines():
            if line.startswith("acknowledged "):
                event = json.loads(line.removeprefix("acknowledged "))
                found[json.dumps([event["type"], event["step"]])] += 1
    return found


async def test_every_accepted_job_ends_with_its_true_status_when_processes_are_killed(
    service: Any, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(SEED)
    troubles = ["kill"] * KILLS + ["disk", "database"]
    chance.shuffle(troubles)
    service.environ = {"DREADNODE_ATTEMPTS": "100"}
    service.start("serve", "dispatch")
    await service.api.push()
    prompt = json.dumps({"behave": "well", "seconds": 0.2})
    config = {"system_prompt": prompt, "steps": STEPS}
    accepted = [(await service.api.job(config=config))["id"] for _ in range(JOBS)]
    most: Counter[str] = Counter()
    watching = asyncio.create_task(watch(service, most))

    for trouble in troubles:
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        if trouble == "disk":
            await fill_the_disk(service)
        elif trouble == "database":
            await take_the_database_away(request, service.api.settings.database_url)
        else:
            await asyncio.to_thread(kill_one, service, chance)
    async with asyncio.timeout(300):
        while any(job.completed_at is None for job in await jobs(service)):
            await asyncio.sleep(0.2)
    watching.cancel()

    found = {job.id: job for job in await jobs(service)}
    assert sorted(found) == sorted(accepted)
    for job_id, job in found.items():
        # All have work that can be done, so the only truthful end is this.
        assert (job.status, job.error) == ("completed", None), (job_id, job.attempt)
        assert job.scalars == {"train/steps": STEPS}
        kept = await told(service, job_id)
        assert kept[json.dumps(["training_end", None])] == 1
        lost = acknowledged(service, job_id) - kept
        assert not lost, (job_id, lost)
    assert max(most.values()) == 1, most
    await service.gone()
    async with asyncio.timeout(20):
        while not all(job.lease is None for job in await jobs(service)):
            await asyncio.sleep(0.1)
        while await announced(service):
            await asyncio.sleep(0.1)


async def announced(service: Any) -> int:
    """Return how many changes of state nobody has looked at yet."""
    async with service.api.database.reading() as session:
        return len((await session.scalars(select(Announcement))).all())
