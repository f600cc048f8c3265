"""Clocks that jump, and machines that do not agree about the time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dreadnode_api.db import Database, clock
from dreadnode_api.jobs import queue
from dreadnode_api.jobs.dispatcher import Dispatcher
from dreadnode_api.models.jobs import Job
from dreadnode_api.sandbox.runner import Exited, Running, Sandbox, State
from sqlalchemy import update

HOUR = timedelta(hours=1)


class Machine:
    """A runner whose sandboxes nobody on another machine can reach."""

    def __init__(self) -> None:
        self.alive: set[tuple[str, int]] = set()
        self.started: list[tuple[str, int]] = []
        self.looked_at_lately = True

    async def start(self, sandbox: Sandbox) -> None:
        self.started.append((sandbox.job_id, sandbox.attempt))
        self.alive.add(self.started[-1])

    async def state(self, job_id: str, attempt: int) -> State:
        self.looked_at_lately = True
        return Running() if (job_id, attempt) in self.alive else Exited(0)

    async def heartbeat(self, job_id: str, attempt: int) -> None: ...

    async def stop(self, job_id: str, attempt: int) -> None:
        self.alive.discard((job_id, attempt))

    kill = clean = stop

    async def usage(self, job_id: str, attempt: int) -> object:
        return None

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        return []


@asynccontextmanager
async def dispatching(api: Any, machine: Machine, host: str) -> AsyncIterator[asyncio.Event]:
    """Run the dispatcher of a machine; what it yields makes it let go at once."""
    stop, abandon = asyncio.Event(), asyncio.Event()
    dispatcher = Dispatcher(api.settings, api.database, machine, host)
    running = asyncio.create_task(dispatcher.run(stop, abandon))
    try:
        yield abandon
    finally:
        stop.set()
        await running


async def jump(database: Database, by: timedelta) -> None:
    """Have the time by which leases were written differ from that by which they are read."""
    async with database.writing() as session:
        moved = {"lease_until": await clock(session) + timedelta(seconds=1) - by}
        await session.execute(update(Job).where(Job.lease.is_not(None)).values(moved))


async def until(api: Any, job_id: str, **wanted: Any) -> None:
    job: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while {name: job.get(name) for name in wanted} != wanted:
            await asyncio.sleep(0.02)
            job = (await api("GET", f"{api.jobs}/{job_id}")).json()


@pytest.fixture
async def job(api: Any) -> str:
    await api.push()
    return str((await api.job())["id"])


async def test_a_clock_that_jumps_ahead_takes_no_job_from_a_live_dispatcher(
    api: Any, job: str
) -> None:
    here, there = Machine(), Machine()
    async with dispatching(api, here, "here"):
        await until(api, job, status="running")
        async with dispatching(api, there, "there"):
            for _ in range(20):
                await jump(api.database, HOUR)
                await asyncio.sleep(api.settings.lease_seconds / 10)
            assert here.alive == {(job, 1)}

    assert (here.started, there.started) == ([(job, 1)], [])


async def test_a_clock_set_back_an_hour_does_not_delay_the_jobs_of_a_dead_dispatcher(
    api: Any, job: str
) -> None:
    here, there = Machine(), Machine()
    async with dispatching(api, here, "here") as abandon:
        await until(api, job, status="running")
        abandon.set()
    await jump(api.database, -HOUR)

    async with dispatching(api, there, "there"):
        # Nothing of it is here, so it is settled and not left to a lease of an hour.
        await until(api, job, status="failed", error_code="ended_without_report")


@pytest.mark.parametrize("is_over", [True, False], ids=["attempt over", "attempt adopted"])
async def test_a_dispatcher_that_lost_a_lease_kills_a_sandbox_only_if_its_attempt_is_over(
    api: Any, job: str, is_over: bool
) -> None:
    here = Machine()
    async with dispatching(api, here, "here"):
        await until(api, job, status="running")
        async with asyncio.timeout(10):
            while here.alive != {(job, 1)}:
                await asyncio.sleep(0.02)

        async with api.database.writing() as session:
            held = await session.get_one(Job, job)
            held.lease, held.host = "of another", "there"
            held.lease_until = await clock(session) + HOUR
            held.attempt += is_over
        async with asyncio.timeout(10):
            while here.looked_at_lately and (job, 1) in here.alive:
                here.looked_at_lately = False
                await asyncio.sleep(4 * api.settings.poll_seconds)

        assert here.alive == (set() if is_over else {(job, 1)})


async def test_a_postponed_attempt_does_not_wait_an_hour_after_the_clock_was_set_back(
    api: Any, job: str
) -> None:
    async with api.database.writing() as session:
        at = await clock(session)
        held = await queue.claim(session, "here", 60, 1)
        assert held is not None
        await queue.requeue(session, held, "its sandbox was killed", wait=5)
        assert timedelta(seconds=4) < held.available_at - at < timedelta(seconds=10)
    async with api.database.writing() as session:
        assert await queue.claim(session, "here", 60, 1) is None
        await session.execute(update(Job).values(available_at=held.available_at + HOUR))

    async with api.database.writing() as session:
        again = await queue.claim(session, "here", 60, 1)

    assert again is not None
    assert again.attempt == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_a_machine_with_a_wrong_clock_sees_the_same_queue(
    api: Any, monkeypatch: pytest.MonkeyPatch, skew: timedelta
) -> None:
    for module in ("dreadnode_api.db", "dreadnode_api.jobs.queue", "dreadnode_api.jobs.records"):
        monkeypatch.setattr(f"{module}.now", lambda: datetime.now(UTC) + skew)
    await api.push()
    job = await api.job()

    async with api.database.writing() as session:
        taken = await queue.claim(session, "wrong", 60, 1)
        assert taken is not None
        left = (taken.lease_until or taken.created_at) - await clock(session)
    async with api.database.writing() as session:
        stolen = await queue.adopt(session, "wrong", 60)

    assert taken.id == job["id"]
    assert abs(left.total_seconds() - 60) < 10
    assert abs((await _clock(api.database) - datetime.now(UTC)).total_seconds()) < 10
    assert stolen is None


async def _clock(database: Database) -> datetime:
    async with database.reading() as session:
        return await clock(session)


async def test_a_lease_that_its_holder_renews_is_never_taken(api: Any, job: str) -> None:
    async with api.database.writing() as session:
        held = await queue.claim(session, "here", 60, 1)
        assert held is not None
        lease = queue.Lease(held.id, held.attempt, held.lease or "")
    async with api.database.reading() as session:
        unrenewed = await queue.foreign_leases(session, [])
    async with api.database.writing() as session:
        await queue.renew(session, [lease], 60)

    async with api.database.writing() as session:
        stolen = await queue.adopt(session, "there", 60, unrenewed=unrenewed)

    assert list(unrenewed) == [lease.token]
    assert stolen is None
