"""Checkpoints as things: told, listed, kept and let go."""

import json
from typing import Any

import pytest
from dreadnode_api.jobs import queue
from dreadnode_api.jobs.records import lock

PATH = "tinker://run-1/weights/{:06d}"


async def tell(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> Any:
    return await api(
        "POST", f"{api.jobs}/{job['id']}/progress", key=key, json={"event_type": kind, **more}
    )


async def saved(api: Any, job: dict[str, Any], key: str, step: int, **more: Any) -> None:
    artifacts = {"latest_checkpoint": PATH.format(step), **more.pop("artifacts", {})}
    data = {"step": step, **more.pop("data", {})}
    answer = await tell(api, job, key, "checkpoint_saved", data=data, artifacts=artifacts, **more)
    assert answer.status_code == 200, answer.text


async def checkpoints(api: Any, job: dict[str, Any], key: str = "reader") -> list[dict[str, Any]]:
    answer = await api("GET", f"{api.jobs}/{job['id']}/checkpoints", key=key)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


@pytest.fixture
async def running(api: Any) -> tuple[dict[str, Any], str]:
    """A job in its first attempt, and its sandbox's key."""
    await api.push()
    await api.job()
    job, key = await api.start()
    return job, key


async def test_a_saved_checkpoint_is_listed_with_its_step_and_loss(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    await tell(
        api, job, key, "step_complete",
        data={"step": 10}, metrics={"steps": [10], "train/loss": [0.5]},
    )  # fmt: skip
    await saved(api, job, key, 10)
    await saved(api, job, key, 20, metrics={"eval/loss": 0.25}, data={"bytes": 4096})

    first, second = await checkpoints(api, job)

    assert first == {
        "path": "tinker://run-1/weights/000010", "kind": "training", "step": 10, "attempt": 1,
        "state": "ready", "best": False, "final": False, "metrics": {"train/loss": 0.5},
        "bytes": None, "created_at": first["created_at"], "expired_at": None,
        "adapter": None,
    }  # fmt: skip
    assert (second["step"], second["metrics"], second["bytes"]) == (20, {"eval/loss": 0.25}, 4096)


async def test_one_checkpoint_is_the_best_and_the_end_marks_the_final_ones(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    for step in (10, 20):
        await saved(api, job, key, step, artifacts={"best_checkpoint": PATH.format(step)})
    final = {
        "latest_checkpoint": "tinker://run-1/weights/final",
        "sampler_checkpoint": "tinker://run-1/sampler_weights/final",
    }
    await tell(api, job, key, "training_end", artifacts=final)

    found = await checkpoints(api, job)

    assert [(c["best"], c["final"], c["kind"]) for c in found] == [
        (False, False, "training"),
        (True, False, "training"),
        (False, True, "training"),
        (False, True, "sampler"),
    ]


async def test_a_cancelled_job_keeps_its_newest_checkpoint_and_has_no_final_one(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    await saved(api, job, key, 10)
    artifacts = {"latest_checkpoint": PATH.format(10)}
    await tell(api, job, key, "training_end", data={"cancelled": True}, artifacts=artifacts)

    assert [(c["final"], c["state"]) for c in await checkpoints(api, job)] == [(False, "ready")]


async def test_a_pending_checkpoint_becomes_ready_and_is_reported_once(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    name = {"name": "step-000010", "step": 10}
    begun = await tell(api, job, key, "checkpoint_writing", data=name)
    [writing] = await checkpoints(api, job)

    for _ in range(2):
        figures = {"bytes": 7, "metrics": {"train/loss": 0.5, "eval/loss": 0.75}}
        await saved(api, job, key, 10, data=figures)

    assert (writing["path"], writing["state"], writing["step"]) == ("step-000010", "writing", 10)
    # A job must never go on from what may not be there.
    assert "latest_checkpoint" not in begun.json()["artifacts"]
    [ready] = await checkpoints(api, job)
    assert (ready["path"], ready["state"], ready["bytes"]) == (PATH.format(10), "ready", 7)
    assert ready["metrics"] == {"train/loss": 0.5, "eval/loss": 0.75}


async def test_the_final_checkpoint_is_pending_before_it_is_final(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    await tell(api, job, key, "checkpoint_writing", data={"name": "final", "step": 20})
    [writing] = await checkpoints(api, job)
    final = {
        "latest_checkpoint": "tinker://run-1/weights/final",
        "sampler_checkpoint": "tinker://run-1/sampler_weights/final",
    }
    data = {"step": 20, "bytes": 9, "sampler_bytes": 3, "metrics": {"train/loss": 0.5}}
    await tell(api, job, key, "training_end", artifacts=final, data=data)

    assert (writing["path"], writing["state"], writing["final"]) == ("final", "writing", False)
    assert [
        (c["path"], c["state"], c["bytes"], c["final"]) for c in await checkpoints(api, job)
    ] == [
        (final["latest_checkpoint"], "ready", 9, True),
        (final["sampler_checkpoint"], "ready", 3, True),
    ]


async def test_a_pending_checkpoint_whose_save_was_lost_is_deleted(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    await saved(api, job, key, 10)
    await tell(api, job, key, "checkpoint_writing", data={"name": "step-000020", "step": 20})
    before = [c["state"] for c in await checkpoints(api, job)]

    async with api.database.writing() as session:
        await queue.requeue(session, await lock(session, job["id"]), "its sandbox was killed")

    assert before == ["ready", "writing"]
    assert [(c["step"], c["state"]) for c in await checkpoints(api, job)] == [(10, "ready")]


@pytest.mark.parametrize(
    "data", [{}, {"name": "x"}, {"step": 1}, {"name": "tinker://x", "step": 1}]
)
async def test_a_pending_checkpoint_must_have_a_name_and_a_step(
    api: Any, running: tuple[dict[str, Any], str], data: dict[str, Any]
) -> None:
    job, key = running

    answer = await tell(api, job, key, "checkpoint_writing", data=data)

    assert answer.status_code == 422
    assert await checkpoints(api, job) == []


@pytest.mark.parametrize(
    ("data", "artifacts", "loc"),
    [
        ({"metrics": {"loss": "low"}}, {}, ["body", "data", "metrics"]),
        ({"bytes": -1}, {}, ["body", "data", "bytes"]),
        ({"bytes": "many"}, {}, ["body", "data", "bytes"]),
        ({}, {"latest_checkpoint": 7}, ["body", "artifacts", "latest_checkpoint"]),
        ({}, {"latest_checkpoint": "x" * 501}, ["body", "artifacts", "latest_checkpoint"]),
    ],
)
async def test_an_invalid_checkpoint_is_refused_and_leaves_nothing(
    api: Any,
    running: tuple[dict[str, Any], str],
    data: dict[str, Any],
    artifacts: dict[str, Any],
    loc: list[str],
) -> None:
    job, key = running
    artifacts = {"latest_checkpoint": PATH.format(1), **artifacts}

    answer = await tell(api, job, key, "checkpoint_saved", data=data, artifacts=artifacts)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == loc
    assert await checkpoints(api, job) == []
    shown = (await api("GET", f"{api.jobs}/{job['id']}")).json()
    assert "latest_checkpoint" not in json.dumps(shown["artifacts"])


async def test_only_users_who_may_see_the_job_see_its_checkpoints(
    api: Any, running: tuple[dict[str, Any], str]
) -> None:
    job, key = running
    await saved(api, job, key, 10)

    assert len(await checkpoints(api, job, key)) == 1
    path = f"{api.jobs}/{job['id']}/checkpoints"
    assert (await api("GET", path, key="stranger")).status_code == 404
    assert (await api("GET", path, key=None)).status_code == 401
