"""Rehearsals: what they have shown, and jobs that start only after a good one."""

import json
from typing import Any

import pytest
from dreadnode_api.jobs import queue

PLAN = {"plan": {"steps": 300, "at_least": {"train": 10**6}, "at_most": {"train": 2 * 10**6}}}


async def post(api: Any, job: str, key: str, kind: str, **event: Any) -> dict[str, Any]:
    body = {"event_type": kind, **event}
    answer = await api("POST", f"{api.jobs}/{job}/progress", key=key, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def get(api: Any, job: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api("GET", f"{api.jobs}/{job}")).json()
    return found


async def test_a_rehearsal_reports_movement_tokens_time_and_the_whole_job(api: Any) -> None:
    await api.push()
    config = {"system_prompt": json.dumps(PLAN)}
    made = await api.job(rehearse=True, rehearse_steps=8, config=config)
    _, key = await api.start()
    assert (await get(api, made["id"]))["rehearsal_report"] is None
    await post(api, made["id"], key, "training_start")
    for step in range(1, 9):
        await post(
            api,
            made["id"],
            key,
            "step_complete",
            metrics={"steps": [step], "train/loss": [4 / step]},
            data={"step": step, "steps": 8},
            usage={"train": 100 * step},
        )

    report = (await get(api, made["id"]))["rehearsal_report"]

    assert made["rehearse_steps"] == 8
    assert "steps" not in made["config"]
    assert (report["steps"], report["whole_steps"]) == (8, 300)
    assert (report["metric"], report["first"], report["movement"]) == ("loss", 3.0, "falling")
    assert report["tokens_per_step"] == 100
    assert report["seconds_per_step"] >= 0
    # The same range as that of the report, for the tokenizer of the job's own model.
    price = made["preflight"]["price"]
    assert not price["is_exact"]
    assert report["whole_usd_at_least"] == price["at_least"]["usd"]
    assert report["whole_usd_at_most"] == price["at_most"]["usd"]
    assert float(report["whole_usd_at_least"]) < 0.44 < float(report["whole_usd_at_most"])


@pytest.mark.parametrize(
    ("kind", "event", "status", "code"),
    [
        ("training_end", {}, "queued", None),
        ("training_error", {"error": "The reward failed"}, "failed", "rehearsal_failed"),
        ("training_end", {"data": {"cancelled": True}}, "failed", "rehearsal_failed"),
    ],
)
async def test_a_job_starts_only_if_its_rehearsal_ended_well(
    api: Any, kind: str, event: dict[str, Any], status: str, code: str | None
) -> None:
    await api.push()
    job = await api.job(rehearse_first=True, rehearse_steps=5)
    rehearsal, key = await api.start()
    async with api.database.writing() as session:
        assert await queue.claim(session, "host", 60, 1000) is None

    waiting = await get(api, job["id"])
    await post(api, rehearsal["id"], key, kind, **event)
    after = await get(api, job["id"])

    assert rehearsal["rehearsal"]
    assert (rehearsal["rehearse_steps"], job["rehearse_steps"]) == (5, None)
    assert (waiting["status"], waiting["phase"]) == ("queued", "rehearsing")
    assert waiting["rehearsal_id"] == rehearsal["id"]
    assert (after["status"], after["error_code"]) == (status, code)
    if code is None:
        assert (await api.start(job["id"]))[0]["id"] == job["id"]
    elif "error" in event:
        assert after["error"] == (f"The rehearsal `{rehearsal['id']}` is failed: The reward failed")


async def test_a_repeated_request_makes_one_rehearsal_and_one_job(api: Any) -> None:
    await api.push()
    wish = {"rehearse_first": True, "headers": {"Idempotency-Key": "once"}}

    first, second = await api.create(**wish), await api.create(**wish)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert await api.count() == 2


async def test_a_job_that_is_refused_leaves_no_rehearsal_behind(api: Any) -> None:
    await api.push()
    plan = json.dumps(PLAN)
    wish = {"max_cost_usd": 0.1, "system_prompt": plan}

    refused = await api.create(rehearse_first=True, config=wish)
    unclear = await api.create(rehearse_first=True, rehearse=True)
    alone = await api.create(rehearse_steps=3)

    assert [each.status_code for each in (refused, unclear, alone)] == [422, 422, 422]
    listed = (await api("GET", api.jobs)).json()["items"]
    assert all(each["status"] == "cancelled" for each in listed)
