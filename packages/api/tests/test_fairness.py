"""Whose job is next: limits, turns and order, on both databases."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from dreadnode_api.db import Database
from dreadnode_api.jobs import queue
from dreadnode_api.models.auth import Organization, Workspace
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.jobs import Job, Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

Enqueue = Callable[..., Any]


async def workspaces(database: Database, *keys: str) -> dict[str, str]:
    """Make an organization with workspaces, and return their ids by key."""
    async with database.writing() as session:
        org = Organization(slug=f"o-{new_id()}", name="O")
        session.add(org)
        await session.flush()
        made = {key: Workspace(org_id=org.id, slug=key, name=key) for key in keys}
        session.add_all(made.values())
        await session.flush()
        return {key: workspace.id for key, workspace in made.items()}


async def enqueue(database: Database, workspace_id: str, count: int = 1, **more: Any) -> list[str]:
    """Queue jobs and return their ids, oldest first."""
    async with database.writing() as session:
        workspace = await session.get_one(Workspace, workspace_id)
        jobs = [
            Job(
                id=(job_id := new_id()), lineage=job_id, org_id=workspace.org_id, events=0,
                workspace_id=workspace_id, backend="tinker", trainer_type="sft", model="m",
                trained_model="m", config={}, **more,
            )
            for _ in range(count)
        ]  # fmt: skip
        session.add_all(jobs)
        # Ids of one millisecond are in no order.
        return sorted(job.id for job in jobs)


async def take(database: Database, per_workspace: int = 1000, in_all: int = 0) -> Job | None:
    async with database.writing() as session:
        return await queue.claim(session, "host", 60, per_workspace, in_all)


async def finish(database: Database, job: Job) -> None:
    async with database.writing() as session:
        lease = queue.Lease(job.id, job.attempt, job.lease or "")
        held = await queue.lock_leased(session, lease)
        await queue.finish(session, held, Status.COMPLETED, code=None)


async def order(database: Database, places: dict[str, str], at_once: int = 1) -> str:
    """Work the queue off with `at_once` jobs running, and return whose turns there were."""
    names = {workspace_id: key for key, workspace_id in places.items()}
    running: list[Job] = []
    turns = ""
    while True:
        while len(running) < at_once and (job := await take(database)) is not None:
            turns += names[job.workspace_id]
            running.append(job)
        if not running:
            return turns
        await finish(database, running.pop(0))


async def test_a_workspace_with_many_jobs_does_not_delay_another(database: Database) -> None:
    places = await workspaces(database, "a", "b", "c")
    await enqueue(database, places["a"], 6)
    await enqueue(database, places["b"], 2)
    await enqueue(database, places["c"], 1)

    assert await order(database, places) == "abcabaaaa"


async def test_the_workspace_with_the_fewest_running_jobs_comes_first(
    database: Database,
) -> None:
    places = await workspaces(database, "a", "b")
    await enqueue(database, places["a"], 4)
    assert await take(database) is not None
    assert await take(database) is not None
    await enqueue(database, places["b"], 2)

    turns = [job.workspace_id for _ in range(4) if (job := await take(database)) is not None]

    assert turns == [places["b"], places["b"], places["a"], places["a"]]


async def test_within_a_workspace_the_oldest_job_comes_first(database: Database) -> None:
    places = await workspaces(database, "a")
    queued = [(await enqueue(database, places["a"]))[0] for _ in range(5)]

    taken = [job.id for _ in queued if (job := await take(database)) is not None]

    assert taken == sorted(queued)


async def test_a_job_waiting_for_its_next_attempt_does_not_block_newer_ones(
    database: Database,
) -> None:
    places = await workspaces(database, "a")
    await enqueue(database, places["a"], available_at=now() + timedelta(minutes=5))
    [younger] = await enqueue(database, places["a"])

    taken = await take(database)

    assert taken is not None
    assert taken.id == younger
    assert await take(database) is None


@pytest.mark.parametrize(("per_workspace", "in_all", "most"), [(2, 0, 4), (1000, 3, 3), (1, 3, 2)])
async def test_neither_limit_is_ever_exceeded(
    database: Database, per_workspace: int, in_all: int, most: int
) -> None:
    places = await workspaces(database, "a", "b")
    for workspace_id in places.values():
        await enqueue(database, workspace_id, 5)

    taken = [job for _ in range(10) if (job := await take(database, per_workspace, in_all))]

    assert len(taken) == most
    await finish(database, taken[0])
    assert await take(database, per_workspace, in_all) is not None
    assert await take(database, per_workspace, in_all) is None


@given(
    jobs=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1),
    at_once=st.integers(1, 3),
)
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_every_job_gets_its_turn_and_a_workspace_waits_for_at_most_one_turn_of_another(
    database: Database, jobs: dict[str, int], at_once: int
) -> None:
    places = await workspaces(database, *jobs)
    for key, count in jobs.items():
        await enqueue(database, places[key], count)

    turns = await order(database, places, at_once)

    assert {key: turns.count(key) for key in jobs} == jobs
    for key, count in jobs.items():
        # Until its last turn, at most one turn of any other lies between two of its own.
        at = [i for i, turn in enumerate(turns) if turn == key]
        for before, after in zip([-1, *at], at[:count], strict=False):
            between = turns[before + 1 : after]
            assert all(between.count(other) <= at_once for other in jobs)
    async with database.writing() as session:
        ids = list(places.values())
        left = await session.scalars(select(Job.id).where(Job.workspace_id.in_(ids)))
        assert len(left.all()) == sum(jobs.values())
        await session.execute(delete(queue.FairShare).where(queue.FairShare.workspace_id.in_(ids)))
