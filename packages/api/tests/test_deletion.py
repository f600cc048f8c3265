"""Deleting jobs, checkpoints and datasets: refused while used, and everything is freed."""

import logging
import os
import time
from typing import Any

import pytest
from dreadnode_api.checkpoints.retention import delete_expired
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.models.base import Table
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

WEIGHTS = "tinker://run-1/weights/{}"


class Engine(EngineClient):
    """An engine that only notes what it has to delete."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def delete_checkpoint(self, path: str) -> bool:
        self.deleted.append(path)
        return True


async def report(api: Any, job: dict[str, Any], key: str, event_type: str, **more: Any) -> None:
    path = f"{api.jobs}/{job['id']}/progress"
    response = await api("POST", path, key=key, json={"event_type": event_type, **more})
    assert response.status_code == 200, response.text


async def trained(api: Any, *names: str, status: str = "failed") -> dict[str, Any]:
    """A job that has saved these checkpoints and a file, and has then ended unless it runs."""
    if await api.count() == 0:
        await api.push()
    await api.job()
    job, key = await api.start()
    for step, name in enumerate(names, 1):
        artifacts = {"latest_checkpoint": WEIGHTS.format(name)}
        await report(api, job, key, "checkpoint_saved", data={"step": step}, artifacts=artifacts)
    path = f"{api.jobs}/{job['id']}/files/adapter/adapter_config.json"
    assert (await api("PUT", path, key=key, content=os.urandom(50))).status_code == 201
    if status == "failed":
        await report(api, job, key, "training_error", error="no", data={"fault": "job"})
        async with api.database.writing() as session:
            row = await session.get_one(models("jobs"), job["id"])
            row.lease = None
    return job


def models(name: str) -> Any:
    return next(each.class_ for each in Table.registry.mappers if each.class_.__tablename__ == name)


async def rows_of(session: AsyncSession, job_id: str) -> dict[str, int]:
    """Return how many rows of each table refer to a job."""
    found = {}
    for mapper in Table.registry.mappers:
        table = mapper.class_
        if hasattr(table, "job_id"):
            count = select(func.count()).select_from(table).where(table.job_id == job_id)
            found[table.__tablename__] = await session.scalar(count) or 0
    return {name: count for name, count in found.items() if count}


def blobs(api: Any) -> set[str]:
    folder = api.settings.data_dir / "blobs"
    return {each.name for each in folder.glob("*/*") if each.is_file()}


def age(api: Any) -> None:
    """Make every blob two minutes old."""
    past = time.time() - 120
    for each in (api.settings.data_dir / "blobs").glob("*/*"):
        os.utime(each, (past, past))


async def test_a_deleted_job_leaves_nothing_behind(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = await trained(api, "a", "b")
    before = blobs(api)
    (api.settings.data_dir / "jobs" / job["id"] / "1").mkdir(parents=True)
    age(api)

    with caplog.at_level(logging.INFO, "dreadnode_api.audit"):
        response = await api("DELETE", f"{api.jobs}/{job['id']}", key="member")

    assert response.status_code == 200
    assert (await api("GET", f"{api.jobs}/{job['id']}")).status_code == 404
    assert (await api("GET", api.jobs)).json()["total"] == 0
    async with api.database.reading() as session:
        assert await rows_of(session, job["id"]) == {}
    assert len(before - blobs(api)) == 1
    assert not (api.settings.data_dir / "jobs" / job["id"]).exists()
    engine = Engine()
    assert await delete_expired(api.database, engine) == 2
    assert sorted(engine.deleted) == [WEIGHTS.format("a"), WEIGHTS.format("b")]
    assert await delete_expired(api.database, engine) == 0
    assert [job["id"] in record.getMessage() for record in caplog.records] == [True]


async def test_a_job_is_not_deleted_while_it_runs_or_another_one_retries_it(api: Any) -> None:
    running = await trained(api, "a", status="running")
    refused = await api("DELETE", f"{api.jobs}/{running['id']}", key="member")
    ended = await trained(api, "b")
    retried = (await api("POST", f"{api.jobs}/{ended['id']}/retry")).json()

    kept = await api("DELETE", f"{api.jobs}/{ended['id']}", key="member")

    assert (refused.status_code, kept.status_code) == (409, 409)
    assert "is running; cancel it" in refused.json()["detail"]
    assert retried["id"] in kept.json()["detail"]
    assert await api.count() == 3


async def test_checkpoints_that_a_retry_has_are_kept_on_the_engine(api: Any) -> None:
    ended = await trained(api, "a")
    await api("POST", f"{api.jobs}/{ended['id']}/retry")
    retry, key = await api.start()
    artifacts = {"latest_checkpoint": WEIGHTS.format("a")}
    await report(api, retry, key, "checkpoint_saved", data={"step": 1}, artifacts=artifacts)
    await report(api, retry, key, "training_error", error="no", data={"fault": "job"})
    async with api.database.writing() as session:
        (await session.get_one(models("jobs"), retry["id"])).lease = None

    deleted = await api("DELETE", f"{api.jobs}/{retry['id']}", key="member")

    assert deleted.status_code == 200
    engine = Engine()
    await delete_expired(api.database, engine)
    assert engine.deleted == []


async def test_a_deleted_checkpoint_expires_and_is_deleted_on_the_engine(api: Any) -> None:
    job = await trained(api, "a", "b")

    response = await api("DELETE", f"{api.jobs}/{job['id']}/checkpoints/a", key="member")

    assert response.status_code == 200
    listed = (await api("GET", f"{api.jobs}/{job['id']}/checkpoints")).json()["items"]
    assert [(row["path"], row["state"]) for row in listed] == [
        (WEIGHTS.format("a"), "expired"),
        (WEIGHTS.format("b"), "ready"),
    ]
    engine = Engine()
    await delete_expired(api.database, engine)
    assert engine.deleted == [WEIGHTS.format("a")]


async def test_a_checkpoint_from_which_an_unfinished_job_resumes_is_not_deleted(api: Any) -> None:
    running = await trained(api, "a", "b", status="running")
    path = f"{api.jobs}/{running['id']}/checkpoints"

    newest = await api("DELETE", f"{path}/b", key="member")
    older = await api("DELETE", f"{path}/a", key="member")
    unknown = await api("DELETE", f"{path}/c", key="member")

    assert (newest.status_code, older.status_code, unknown.status_code) == (409, 200, 404)
    assert f"The job `{running['id']}` is running" in newest.json()["detail"]


@pytest.mark.parametrize("path", ["", "/checkpoints/a"])
async def test_a_reader_and_a_stranger_delete_nothing(api: Any, path: str) -> None:
    job = await trained(api, "a")

    refused = [
        (await api("DELETE", f"{api.jobs}/{job['id']}{path}", key=key)).status_code
        for key in ("reader", "stranger")
    ]

    assert refused == [403, 404]
    assert await api.count() == 1


ROWS_PATH = "/org/acme/datasets/rows/1.0.0"


async def test_a_deleted_dataset_frees_its_files_and_keeps_its_name(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = b"question,answer\nWhy?,So.\n"
    csv: dict[str, Any] = {"content": body, "headers": {"Content-Type": "text/csv"}}
    await api("PUT", ROWS_PATH, **csv)
    age(api)

    with caplog.at_level(logging.INFO, "dreadnode_api.audit"):
        deleted = await api("DELETE", ROWS_PATH, key="member")
    left = blobs(api)
    listed = (await api("GET", "/org/acme/datasets")).json()
    gone = await api("GET", ROWS_PATH)
    created = await api.create()
    other = await api("PUT", ROWS_PATH, content=b'{"prompt": "a", "response": "b"}\n')
    again = await api("PUT", ROWS_PATH, **csv)
    content = await api("GET", f"{ROWS_PATH}/content")

    assert (deleted.status_code, deleted.json()["rows"], left, listed["total"]) == (
        200,
        1,
        set(),
        0,
    )
    assert "rows@1.0.0" in caplog.records[-1].getMessage()
    assert (gone.status_code, created.status_code) == (404, 422)
    assert "was deleted; push the same files under this version again" in gone.json()["detail"]
    assert (other.status_code, again.status_code) == (409, 201)
    assert content.json() == {"question": "Why?", "answer": "So."}


async def test_a_dataset_is_not_deleted_while_a_job_uses_it(api: Any) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    refused = await api("DELETE", ROWS_PATH, key="member")
    await report(api, job, key, "training_error", error="no", data={"fault": "job"})

    deleted = await api("DELETE", ROWS_PATH, key="member")
    retried = await api("POST", f"{api.jobs}/{job['id']}/retry")

    assert (refused.status_code, deleted.status_code, retried.status_code) == (409, 200, 409)
    assert f"The job `{job['id']}` is running and uses `rows@1.0.0`" in refused.json()["detail"]
    assert "`rows@1.0.0` was deleted" in retried.json()["detail"]


async def test_files_that_another_version_has_stay(api: Any) -> None:
    await api.push()
    await api.push(version="1.0.1")
    age(api)

    assert (await api("DELETE", ROWS_PATH)).status_code == 200

    assert (await api("GET", "/org/acme/datasets/rows/1.0.1/content")).status_code == 200
