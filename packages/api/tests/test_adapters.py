"""A checkpoint as an adapter among the job's files: made once, whole or not at all, and let go."""

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_api.checkpoints import transfers
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import JobFile
from sqlalchemy import update

PATH = "tinker://run-1/weights/{}"
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is decided before anything is written."""


async def tell(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> None:
    path = f"{api.jobs}/{job['id']}/progress"
    told = await api("POST", path, key=key, json={"event_type": kind, **more})
    assert told.status_code == 200, told.text


async def saved(api: Any, job: dict[str, Any], key: str, *names: str, **more: Any) -> None:
    for name in names:
        artifacts = {"latest_checkpoint": PATH.format(name), **more}
        await tell(api, job, key, "checkpoint_saved", data={"step": 10}, artifacts=artifacts)


async def running(api: Any, *names: str) -> tuple[dict[str, Any], str]:
    """A job in its first attempt that has saved checkpoints of these names, and its key."""
    await api.push()
    await api.job()
    job, key = await api.start()
    await saved(api, job, key, *names)
    return job, key


async def export(api: Any, job: dict[str, Any], checkpoint: str, key: str = "member") -> Any:
    path = f"{api.jobs}/{job['id']}/checkpoints/adapter"
    return await api("POST", path, key=key, json={"checkpoint": checkpoint})


async def shown(api: Any, job: dict[str, Any], what: str) -> Any:
    answer = await api("GET", f"{api.jobs}/{job['id']}/{what}", key="reader")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def files(api: Any, job: dict[str, Any]) -> list[str]:
    return [each["path"] for each in (await shown(api, job, "files"))["items"]]


def processes() -> list[psutil.Process]:
    """Every living process that an export of this test has started."""
    found = []
    for each in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if each.status() != psutil.STATUS_ZOMBIE and ".incoming-" in each.cwd():
                found.append(each)
        except psutil.Error:
            continue
    return found


async def until(holds: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def left_behind(api: Any) -> list[Path]:
    return list((api.settings.data_dir / "blobs").glob(".incoming-*"))


async def test_an_exported_checkpoint_becomes_files_of_its_job_and_is_found_again(api: Any) -> None:
    object.__setattr__(api.settings, "engine_url", "http://engine")
    job, _ = await running(api, "step-000010", "step-000020")

    first = await export(api, job, "step-000010")
    object.__setattr__(api.settings, "runtime_command", ("false",))
    again = await export(api, job, PATH.format("step-000010"))

    assert first.status_code == 200, first.text
    assert first.json() == again.json()
    assert {name: first.json()[name] for name in ("checkpoint", "step", "folder", "rehearsal")} == {
        "checkpoint": PATH.format("step-000010"),
        "step": 10,
        "folder": "checkpoints/step-000010/",
        "rehearsal": False,
    }
    config, weights = first.json()["files"]
    assert config["path"] == "checkpoints/step-000010/adapter_config.json"
    assert weights["path"] == "checkpoints/step-000010/adapter_model.safetensors"
    assert await shown(api, job, "files") == {"items": [config, weights]}
    got = await api("GET", f"{api.jobs}/{job['id']}/files/{weights['path']}", key="reader")
    assert got.content.decode() == PATH.format("step-000010")
    assert (await shown(api, job, "artifacts"))["artifacts"]["checkpoint_adapters"] == [
        "checkpoints/step-000010/"
    ]
    listed = (await shown(api, job, "checkpoints"))["items"]
    assert [each["adapter"] for each in listed] == ["checkpoints/step-000010/", None]
    assert left_behind(api) == []
    environment = await api("GET", f"{api.jobs}/{job['id']}/files/{config['path']}", key="reader")
    ours = [name for name in environment.json() if name.startswith(("DREADNODE", "TINKER"))]
    assert ours == ["TINKER_API_KEY", "TINKER_BASE_URL", "TINKER_TELEMETRY"]


@ON_SQLITE
async def test_an_ended_job_still_exports_its_best_checkpoint(api: Any) -> None:
    job, key = await running(api)
    await saved(api, job, key, "step-000010", best_checkpoint=PATH.format("step-000010"))
    final = {
        "latest_checkpoint": PATH.format("final"),
        "sampler_checkpoint": "tinker://run-1/sampler_weights/final",
    }
    await tell(api, job, key, "training_end", artifacts=final)

    answers = [await export(api, job, name) for name in ("best", "final")]

    assert [each.json()["folder"] for each in answers] == [
        "checkpoints/step-000010/",
        "checkpoints/final/",
    ]
    assert answers[1].json()["checkpoint"] == PATH.format("final")


async def test_checkpoints_of_two_attempts_with_one_name_have_separate_folders(api: Any) -> None:
    job, key = await running(api, "step-000010")
    other = "tinker://run-2/weights/step-000010"
    await tell(api, job, key, "checkpoint_saved", data={"step": 10}, artifacts={
        "latest_checkpoint": other
    })  # fmt: skip

    newest = (await export(api, job, "step-000010")).json()
    older = (await export(api, job, PATH.format("step-000010"))).json()

    assert (newest["checkpoint"], newest["folder"]) == (other, "checkpoints/step-000010/")
    assert older["folder"] == "checkpoints/step-000010-2/"
    assert (await export(api, job, "step-000010")).json() == newest


async def test_the_adapter_of_an_expired_checkpoint_is_deleted_with_its_bytes(api: Any) -> None:
    job, _ = await running(api, "step-000010", "step-000020")
    for name in ("step-000010", "step-000020"):
        assert (await export(api, job, name)).status_code == 200
    blobs = api.settings.data_dir / "blobs"
    before = {path.name for path in blobs.glob("*/*")}
    for path in blobs.glob("*/*"):
        os.utime(path, (0, 0))
    cleanup = Cleanup(api.settings.model_copy(update={"checkpoints_kept": 1}), api.database, None)

    await cleanup.once()
    listed = await files(api, job)
    async with api.database.writing() as session:
        long_ago = now() - timedelta(days=3)
        await session.execute(update(JobFile).values(created_at=long_ago))
        await session.execute(
            update(Checkpoint).where(Checkpoint.expired_at.is_not(None)).values(expired_at=long_ago)
        )
    done = await cleanup.once()

    assert len(listed) == 4
    assert done["adapters of checkpoints"] == 1
    assert await files(api, job) == [
        "checkpoints/step-000020/adapter_config.json",
        "checkpoints/step-000020/adapter_model.safetensors",
    ]
    # The two have the same configuration, and so one blob of it.
    assert len(before - {path.name for path in blobs.glob("*/*")}) == 1
    artifacts = (await shown(api, job, "artifacts"))["artifacts"]
    assert artifacts["checkpoint_adapters"] == ["checkpoints/step-000020/"]
    assert (await cleanup.once())["adapters of checkpoints"] == 0


@ON_SQLITE
async def test_a_checkpoint_that_cannot_be_exported_is_refused_with_those_that_can(
    api: Any,
) -> None:
    job, key = await running(api)
    none = await export(api, job, "step-000010")
    await saved(api, job, key, *(f"step-{n:06d}" for n in range(7)))
    await tell(api, job, key, "checkpoint_writing", data={"name": "step-000009", "step": 9})
    async with api.database.writing() as session:
        await session.execute(
            update(Checkpoint)
            .where(Checkpoint.path == PATH.format("step-000001"))
            .values(state="expired")
        )

    unknown = await export(api, job, "step-000099")
    answers = {
        name: await export(api, job, name) for name in ("best", "step-000009", "step-000001")
    }

    assert none.status_code == 409
    assert none.json()["detail"].startswith("The job has no checkpoint yet; it saves the first one")
    assert (unknown.status_code, unknown.json()["detail"]) == (
        422,
        (
            "The job has no checkpoint `step-000099`; it has `step-000006`, `step-000005`, "
            "`step-000004`, `step-000003`, `step-000002` and 1 more"
        ),
    )
    assert {name: (a.status_code, a.json()["detail"]) for name, a in answers.items()} == {
        "best": (422, "The job has no best checkpoint, because it has no evaluation yet"),
        "step-000009": (
            409,
            "The checkpoint `step-000009` is still being written; try again in a moment",
        ),
        "step-000001": (
            409,
            (
                "The checkpoint `step-000001` has expired; choose one that is ready of "
                f"`dn train checkpoints {job['id']}`"
            ),
        ),
    }
    assert await files(api, job) == []


@ON_SQLITE
async def test_only_a_member_of_the_organization_may_use_the_engines_time(api: Any) -> None:
    job, key = await running(api, "step-000010")

    asked = [await export(api, job, "step-000010", who) for who in ("reader", "stranger", key)]
    nothing = await export(api, {"id": "no-such-job"}, "step-000010")

    assert [answer.status_code for answer in asked] == [403, 404, 403]
    assert nothing.status_code == 404


@ON_SQLITE
async def test_a_refusal_of_the_engine_is_distinguished_from_an_unreachable_engine(
    api: Any, engine: Any
) -> None:
    job, _ = await running(api, "step-000010", "away-1", "nan-1")

    refused = [await export(api, job, name) for name in ("away-1", "nan-1")]
    models, engine.models = engine.models, []
    without = await export(api, job, "step-000010")
    engine.models, engine.status = models, 503
    away = await export(api, job, "step-000010")

    assert [(a.status_code, a.json()["detail"]) for a in refused] == [
        (502, "The engine was away"),
        (422, "These are not numbers"),
    ]
    assert (without.status_code, without.json()["type"]) == (409, "conflict_error")
    assert (away.status_code, away.json()["type"]) == (502, "bad_gateway_error")
    assert await files(api, job) == []


@ON_SQLITE
async def test_a_failed_or_partial_export_leaves_nothing(api: Any) -> None:
    job, _ = await running(api, "crash-1", "half-1")

    answers = [await export(api, job, name) for name in ("crash-1", "half-1")]

    assert [answer.status_code for answer in answers] == [500, 500]
    assert await files(api, job) == []
    assert left_behind(api) == []


@ON_SQLITE
async def test_a_hanging_export_is_stopped_with_all_its_child_processes(api: Any) -> None:
    object.__setattr__(api.settings, "export_timeout", 1.0)
    job, _ = await running(api, "hang-1")

    answer = await export(api, job, "hang-1")

    assert (answer.status_code, answer.json()["type"]) == (504, "gateway_timeout_error")
    assert "within 1 s" in answer.json()["detail"]
    await until(lambda: not processes())
    assert left_behind(api) == []


@ON_SQLITE
async def test_an_export_stops_when_its_caller_disconnects(api: Any) -> None:
    job, _ = await running(api, "hang-1")
    body = json.dumps({"checkpoint": "hang-1"}).encode()
    hang_up = asyncio.Event()
    told = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if told:
            return told.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        pytest.fail(f"somebody who is gone was answered: {message}")

    path = f"/api/v1{api.jobs}/{job['id']}/checkpoints/adapter"
    headers = {
        "authorization": f"Bearer {api.keys['member']}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"},
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("test", 1), "server": ("api", 80), "root_path": "",
    }  # fmt: skip
    asked = asyncio.create_task(api.app(scope, receive, send))
    await until(lambda: len(processes()) == 2)

    hang_up.set()
    async with asyncio.timeout(20):
        await asked

    await until(lambda: not processes())
    assert left_behind(api) == []


@ON_SQLITE
async def test_a_stopping_server_leaves_nothing_of_an_export(api: Any) -> None:
    job, _ = await running(api, "hang-1")
    asked = asyncio.create_task(export(api, job, "hang-1"))
    await until(lambda: len(processes()) == 2)

    await api.app.state.transfers.close()

    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: not processes())
    assert left_behind(api) == []


@ON_SQLITE
async def test_callers_of_the_same_checkpoint_share_one_export(api: Any) -> None:
    job, _ = await running(api, "slow-1")

    responses = await asyncio.gather(*(export(api, job, "slow-1") for _ in range(8)))

    assert [response.status_code for response in responses] == 8 * [200]
    assert [response.json() for response in responses] == 8 * [responses[0].json()]


@ON_SQLITE
async def test_too_many_exports_of_an_organization_are_refused(api: Any) -> None:
    most = api.settings.exports_at_once + transfers.MAX_WAITING
    names = [f"slow-{number}" for number in range(most + 1)]
    job, _ = await running(api, *names)

    responses = await asyncio.gather(*(export(api, job, name) for name in names))

    assert sorted(response.status_code for response in responses) == [200] * most + [429]
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.headers["retry-after"] == "5"


@ON_SQLITE
async def test_an_adapter_counts_toward_the_jobs_storage_and_is_complete_or_absent(
    api: Any,
) -> None:
    job, key = await running(api, "step-000010")
    object.__setattr__(api.settings, "job_disk_bytes", 1000)
    put = f"{api.jobs}/{job['id']}/files/big"
    assert (await api("PUT", put, key=key, content=b"x" * 960)).status_code == 201

    answer = await export(api, job, "step-000010")

    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_error")
    assert await files(api, job) == ["big"]
    assert "checkpoint_adapters" not in (await shown(api, job, "artifacts"))["artifacts"]


@ON_SQLITE
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("..", "checkpoints/checkpoint/"),
        ("a b\u00fc\\c", "checkpoints/a-b-c/"),
        ("x" * 300, f"checkpoints/{'x' * 100}/"),
    ],
)
async def test_every_checkpoint_name_of_a_sandbox_gives_one_folder(
    api: Any, name: str, folder: str
) -> None:
    job, _ = await running(api, name)

    answer = await export(api, job, PATH.format(name))

    assert answer.json()["folder"] == folder, answer.text
    paths = await files(api, job)
    got = await api("GET", f"{api.jobs}/{job['id']}/files/{paths[0]}", key="reader")
    assert got.status_code == 200


@ON_SQLITE
async def test_leftovers_of_a_process_killed_with_the_server_are_deleted(api: Any) -> None:
    with api.app.state.store.temporary_folder() as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        young = api.app.state.store.delete_partial(before=0.0)
        old = api.app.state.store.delete_partial(before=folder.stat().st_mtime + 1)

    assert (young, old) == (0, 1)
    assert not folder.exists()
