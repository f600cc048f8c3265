"""Lists of jobs: newest first, filtered, and counted without counting."""

from typing import Any

import pytest
from alembic import command
from dreadnode_api import migrations
from dreadnode_api.jobs import queue
from dreadnode_api.jobs.records import lock
from dreadnode_api.models.jobs import Job, Tally
from sqlalchemy import func, select, text


async def totals(api: Any, **params: Any) -> tuple[int, list[str]]:
    page = (await api("GET", api.jobs, params=params)).json()
    return page["total"], [job["name"] for job in page["items"]]


async def test_jobs_are_listed_newest_first_page_by_page(api: Any) -> None:
    await api.push()
    for name in "abcde":
        await api.job(name=name)

    assert await totals(api) == (5, ["e", "d", "c", "b", "a"])
    assert await totals(api, page_size=2) == (5, ["e", "d"])
    assert await totals(api, page_size=2, page=3) == (5, ["a"])
    assert await totals(api, page=9) == (5, [])


async def test_filters_combine_and_give_their_own_total(api: Any) -> None:
    await api.push()
    for name, project in (("a", "x"), ("b", "y"), ("c", "x")):
        await api.job(name=name, project_ref=project)
    job, _key = await api.start()
    await api("POST", f"{api.jobs}/{(await api.job(name='d'))['id']}/cancel")

    assert job["name"] == "a"
    assert await totals(api, status="running") == (1, ["a"])
    assert await totals(api, status="cancelled") == (1, ["d"])
    assert await totals(api, status="completed") == (0, [])
    assert await totals(api, trainer_type="rl") == (0, [])
    assert await totals(api, trainer_type="sft", backend="tinker") == (4, ["d", "c", "b", "a"])
    assert await totals(api, project_ref="x", status="queued") == (1, ["c"])


async def test_jobs_are_filtered_by_name_tag_model_user_and_id_prefix(
    api: Any,
) -> None:
    await api.push()
    plain = await api.job(name="a", tags=["eval", 'say "hi"', "50%_é"])
    other = await api.job(name="b", tags=["evaluation"])

    assert await totals(api, name="a") == (1, ["a"])
    assert await totals(api, tag="eval") == (1, ["a"])
    assert await totals(api, tag='say "hi"') == (1, ["a"])
    assert await totals(api, tag="50%_é") == (1, ["a"])
    assert await totals(api, tag="hi") == (0, [])
    assert await totals(api, tag="%") == (0, [])
    assert await totals(api, model=plain["model"]) == (2, ["b", "a"])
    assert await totals(api, model="other/model") == (0, [])
    assert await totals(api, username=plain["created_by_user"]["username"], name="b") == (1, ["b"])
    assert await totals(api, username="nobody") == (0, [])
    assert await totals(api, id_prefix=other["id"]) == (1, ["b"])
    assert await totals(api, id_prefix=plain["id"][:4]) == (2, ["b", "a"])
    assert (await api("GET", api.jobs, params={"id_prefix": "%"})).status_code == 422


async def test_the_stored_counts_equal_a_recount(api: Any) -> None:
    await api.push()
    for _ in range(4):
        await api.job()
    first, key = await api.start()
    second, _ = await api.start()
    body = {"event_type": "training_end"}
    await api("POST", f"{api.jobs}/{first['id']}/progress", key=key, json=body)
    async with api.database.writing() as session:
        await queue.requeue(session, await lock(session, second["id"]), "lost")

    async with api.database.reading() as session:
        counted = await session.execute(select(Job.status, func.count()).group_by(Job.status))
        tallied = await session.execute(select(Tally.status, Tally.number).where(Tally.number > 0))

        assert dict(tallied.tuples().all()) == dict(counted.tuples().all())


@pytest.mark.parametrize(
    "params",
    [{"page": 0}, {"page_size": 0}, {"page_size": 101}, {"status": "lost"}, {"backend": "x"}],
)
async def test_list_parameters_out_of_range_are_refused(api: Any, params: dict[str, Any]) -> None:
    refused = await api("GET", api.jobs, params=params)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", *params]


async def test_a_list_omits_the_metric_histories(api: Any) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    metrics = {"steps": [1], "train/loss": [2.0], "train/speed": 3}
    body = {"event_type": "step_complete", "metrics": metrics}
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=body)

    listed = (await api("GET", api.jobs)).json()["items"][0]

    assert listed["metrics"] == {"train/speed": 3}


async def test_the_migrated_schema_matches_the_tables(database: Any) -> None:
    """What the migrations made and what the code declares is one schema."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, migrations.METADATA))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migration_counts_existing_jobs(api: Any) -> None:
    await api.push()
    for _ in range(3):
        await api.job()

    def migrate_again(connection: Any) -> None:
        config = migrations.configuration(connection)
        connection.execute(text("DROP TABLE job_tallies"))
        for columns in ("status", "project_ref"):
            connection.execute(text(f"DROP INDEX ix_jobs_workspace_id_{columns}_id"))
        command.stamp(config, "0003")
        command.upgrade(config, "0004")
        command.stamp(config, "head")

    async with api.database.engine.begin() as connection:
        await connection.run_sync(migrate_again)

    assert (await totals(api, status="queued"))[0] == 3
