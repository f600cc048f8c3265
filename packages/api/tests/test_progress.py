"""What a sandbox tells: once, in order, and only while it may."""

import asyncio
import json
from typing import Any

import pytest


@pytest.fixture
async def told(api: Any) -> Any:
    """A running job, and a function that tells an event of it."""
    await api.push()
    made = await api.job()
    job, key = await api.start()
    assert job["id"] == made["id"]

    async def tell(event_type: str, *, as_key: str = key, **more: Any) -> Any:
        body = {"event_type": event_type, **more}
        return await api("POST", f"{api.jobs}/{job['id']}/progress", key=as_key, json=body)

    tell.job = job["id"]  # type: ignore[attr-defined]
    tell.key = key  # type: ignore[attr-defined]
    return tell


def step(n: int, **more: Any) -> dict[str, Any]:
    return {
        "metrics": {"steps": [n], "train/loss": [1 / n], "train/speed": n},
        "data": {"step": n, "steps": 9, "tokens_total": 10 * n, "seconds_left": 1},
        **more,
    }


async def test_lists_are_appended_and_scalars_replaced(api: Any, told: Any) -> None:
    for n in (1, 2, 4):
        await told("step_complete", **step(n))

    job = (await api("GET", f"{api.jobs}/{told.job}")).json()

    assert job["metrics"] == {
        "steps": [1, 2, 4], "train/loss": [1.0, 0.5, 0.25], "train/speed": 4,
    }  # fmt: skip
    assert job["progress"] == {
        "step": 4, "steps": 9, "tokens": 40, "loss": 0.25, "seconds_left": 1.0,
        "reward": None, "eval_loss": None, "eval_reward": None,
    }  # fmt: skip


async def test_an_evaluation_stays_visible_while_steps_continue(api: Any, told: Any) -> None:
    await told("eval_complete", metrics={"eval/steps": [0], "eval/reward": [0.5]})
    first = (await api("GET", f"{api.jobs}/{told.job}")).json()["progress"]
    rewarded = {"steps": [1], "train/reward": [0.25]}
    await told("step_complete", metrics=rewarded, data={"step": 1, "steps": 9})

    progress = (await api("GET", f"{api.jobs}/{told.job}")).json()["progress"]

    assert (first["step"], first["eval_reward"]) == (0, 0.5)
    assert (progress["step"], progress["reward"], progress["eval_reward"]) == (1, 0.25, 0.5)
    assert progress["loss"] is None


async def test_the_final_event_replaces_the_metric_histories(api: Any, told: Any) -> None:
    await told("step_complete", **step(1))

    ended = await told(
        "training_end",
        metrics={"steps": [1], "train/loss": [1.0], "train/steps": 1},
        artifacts={"checkpoints": ["tinker://a"]},
    )

    assert (ended.status_code, ended.json()["status"]) == (200, "completed")
    job = (await api("GET", f"{api.jobs}/{told.job}")).json()
    assert job["metrics"] == {"steps": [1], "train/loss": [1.0], "train/steps": 1}
    assert job["artifacts"] == {"checkpoints": ["tinker://a"]}
    assert job["completed_at"] is not None


async def test_a_repeated_event_counts_once(api: Any, told: Any) -> None:
    first = await told("step_complete", **step(1, attempt=1, seq=1))
    again = await told("step_complete", **step(1, attempt=1, seq=1))

    assert (first.status_code, again.status_code) == (200, 200)
    job = (await api("GET", f"{api.jobs}/{told.job}")).json()
    assert job["metrics"]["steps"] == [1]


async def test_concurrent_copies_of_an_event_count_once(api: Any, told: Any) -> None:
    await asyncio.gather(*(told("step_complete", **step(1, seq=1)) for _ in range(5)))

    job = (await api("GET", f"{api.jobs}/{told.job}")).json()
    assert job["metrics"]["steps"] == [1]


async def test_an_event_that_skips_a_number_is_refused(api: Any, told: Any) -> None:
    refused = await told("step_complete", **step(2, attempt=1, seq=2))

    assert (refused.status_code, refused.json()["type"]) == (409, "conflict_error")
    assert refused.json()["detail"] == "Event 2 came before event 1; send them in order"
    assert (await told("step_complete", **step(1, seq=1))).status_code == 200
    assert (await told("step_complete", **step(2, seq=2))).status_code == 200


async def test_an_oversized_event_is_refused_and_the_next_one_takes_its_number(
    api: Any, told: Any
) -> None:
    bound = 16 * api.settings.max_json_bytes
    refused = await told("log", seq=1, message="much", data={"text": "x" * bound})

    assert (refused.status_code, refused.json()["type"]) == (400, "invalid_error")
    assert f"{bound:,} bytes" in refused.json()["detail"]
    assert (await told("step_complete", **step(1, seq=1))).status_code == 200


async def test_after_the_end_nothing_changes_and_the_last_event_may_be_repeated(
    api: Any, told: Any
) -> None:
    await told("training_end", seq=1, metrics={"train/steps": 1})

    again = await told("training_end", seq=1, metrics={"train/steps": 1})
    late = await told("step_complete", **step(9, seq=2))

    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert (late.status_code, late.json()["metrics"]) == (200, {"train/steps": 1})


async def test_a_jobs_token_ends_with_the_job(api: Any, told: Any) -> None:
    assert (await api("GET", f"{api.jobs}/{told.job}", key=told.key)).status_code == 200
    await told("training_end")
    await asyncio.sleep(1.0)

    refused = await api("GET", f"{api.jobs}/{told.job}", key=told.key)
    upload = await api("PUT", f"{api.jobs}/{told.job}/files/a", key=told.key, content=b"x")

    assert (refused.status_code, upload.status_code) == (401, 401)


async def test_the_token_of_an_abandoned_attempt_can_no_longer_write(api: Any, told: Any) -> None:
    from dreadnode_api.jobs import queue
    from dreadnode_api.jobs.records import lock

    async with api.database.writing() as session:
        await queue.requeue(session, await lock(session, told.job), "lost")
    _job, key = await api.start()
    await asyncio.sleep(1.0)

    refused = await told("step_complete", **step(1))
    old = await told("step_complete", as_key=key, **step(1, attempt=1, seq=1))

    assert refused.status_code == 401
    assert (old.status_code, old.json()["attempt"]) == (200, 2)
    assert (await api("GET", f"{api.jobs}/{told.job}")).json()["metrics"] == {}


async def test_an_attempt_resumed_from_a_checkpoint_replaces_metrics_after_it(
    api: Any, told: Any
) -> None:
    for n in (1, 2, 3):
        await told("step_complete", **step(n))

    await told("training_start", data={"start": 2, "steps": 9})
    await told("step_complete", **step(3))

    job = (await api("GET", f"{api.jobs}/{told.job}")).json()
    assert job["metrics"]["steps"] == [1, 2, 3]


@pytest.mark.parametrize(
    "event",
    [
        {"event_type": "party"},
        {"event_type": "log", "level": "INFO"},
        {"event_type": "log", "extra": 1},
        {"event_type": "phase", "data": {"phase": "dancing"}},
        {"event_type": "step_complete", "metrics": {"a": {"b": 1}}},
        {"event_type": "step_complete", "metrics": {"a": [[1]]}},
        {"event_type": "phase", "data": {"phase": "training", "reason": 5}},
        {"event_type": "phase", "data": {"phase": "training", "reason": "r" * 2_001}},
        {"event_type": "step_complete", "metrics": {"steps": [1e300], "train/loss": [1.0]}},
        {"event_type": "step_complete", "metrics": {"x": [1.0]}, "data": {"step": -1}},
        {"event_type": "training_start", "data": {"start": "two"}},
        {"event_type": "training_start", "data": {"start": True}},
        {"event_type": "training_start", "data": {"start": -1}},
        {"event_type": "log", "attempt": 2},
        {"event_type": "log", "seq": 0},
    ],
)
async def test_an_invalid_event_is_refused_and_changes_nothing(
    api: Any, told: Any, event: dict[str, Any]
) -> None:
    before = (await api("GET", f"{api.jobs}/{told.job}")).json()

    refused = await told(**event)

    assert (refused.status_code, refused.json()["type"]) == (422, "validation_error")
    assert (await api("GET", f"{api.jobs}/{told.job}")).json() == before


async def test_a_lone_surrogate_in_an_event_is_refused_and_changes_nothing(
    api: Any, told: Any
) -> None:
    refused = await api(
        "POST",
        f"{api.jobs}/{told.job}/progress",
        key=told.key,
        content=b'{"event_type": "log", "message": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )

    assert (refused.status_code, refused.json()["type"]) in {
        (400, "bad_request_error"),
        (422, "validation_error"),
    }


async def test_an_infrastructure_failure_does_not_fail_the_job(api: Any, told: Any) -> None:
    told_job = await told(
        "training_error",
        error="The engine is away",
        data={"fault": "infrastructure", "code": "engine_away"},
    )

    assert told_job.json()["status"] == "running"
    assert told_job.json()["phase_reason"] == "The engine is away"


async def test_a_job_that_ends_as_cancelled_is_cancelled(api: Any, told: Any) -> None:
    await api("POST", f"{api.jobs}/{told.job}/cancel")

    seen = await told("step_complete", **step(1))
    ended = await told("training_end", data={"cancelled": True})

    assert seen.json()["cancel_requested_at"] is not None
    assert ended.json()["status"] == "cancelled"


async def test_logs_have_a_cursor_a_level_a_tail_and_a_search(api: Any, told: Any) -> None:
    for n, level in enumerate(("debug", "info", "warning", "error")):
        await told("log", message=f"line {n} [{level}]", level=level)
    path = f"{api.jobs}/{told.job}/logs"

    lines = (await api("GET", path)).json()["items"]

    def texts(answer: Any) -> list[str]:
        return [line["message"] for line in answer.json()["items"]]

    assert [line["message"] for line in lines] == [
        "line 0 (debug)", "line 1 (info)", "line 2 (warning)", "line 3 (error)",
    ]  # fmt: skip
    assert [line["level"] for line in lines] == ["debug", "info", "warning", "error"]
    after = {"after": lines[1]["cursor"]}
    assert texts(await api("GET", path, params=after)) == ["line 2 (warning)", "line 3 (error)"]
    since = {"since": lines[2]["timestamp"]}
    assert texts(await api("GET", path, params=since)) == ["line 2 (warning)", "line 3 (error)"]
    assert texts(await api("GET", path, params={"level": "error"})) == ["line 3 (error)"]
    assert texts(await api("GET", path, params={"tail": 1})) == ["line 3 (error)"]
    assert texts(await api("GET", path, params={"query": "LINE 2"})) == ["line 2 (warning)"]


async def test_files_are_uploaded_replaced_listed_and_read(api: Any, told: Any) -> None:
    path = f"{api.jobs}/{told.job}/files"
    for body in (b"first", b"second"):
        put = await api("PUT", f"{path}/adapter/a.bin", key=told.key, content=body)
        assert put.status_code == 201

    listed = (await api("GET", path)).json()["items"]

    assert [(f["path"], f["bytes"]) for f in listed] == [("adapter/a.bin", 6)]
    assert (await api("GET", f"{path}/adapter/a.bin", key="reader")).content == b"second"


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", ".hidden", "a/%00", "%2e%2e/x", "a\\b"]
)
async def test_a_file_cannot_leave_its_jobs_folder(api: Any, told: Any, path: str) -> None:
    answer = await api("PUT", f"{api.jobs}/{told.job}/files/{path}", key=told.key, content=b"x")

    assert answer.status_code in (404, 405, 422)
    listed = await api("GET", f"{api.jobs}/{told.job}/files")
    assert listed.json()["items"] == []


async def test_only_the_sandbox_reports_events_and_uploads_files(api: Any, told: Any) -> None:
    told_by_admin = await told("log", as_key="admin", message="x")
    put = await api("PUT", f"{api.jobs}/{told.job}/files/a", key="admin", content=b"x")

    assert (told_by_admin.status_code, put.status_code) == (403, 403)


async def test_the_events_of_an_ended_job_are_streamed_and_then_end(api: Any, told: Any) -> None:
    await told("log", message="one [1]")
    await told("step_complete", **step(1))
    await told("training_end")
    path = f"{api.jobs}/{told.job}/events"

    whole = await api("GET", path)

    events = [block.split("\n") for block in whole.text.split("\n\n") if block.startswith("id")]
    kinds = [lines[1].removeprefix("event: ") for lines in events]
    assert kinds[-4:] == ["log", "step_complete", "training_end", "status"]
    assert json.loads(events[-4][2].removeprefix("data: "))["message"] == "one (1)"
    behind = events[-2][0].removeprefix("id: ")
    rest = await api("GET", path, headers={"Last-Event-ID": behind})
    assert rest.text.count("id: ") == 1
    last = events[-1][0].removeprefix("id: ")
    assert (await api("GET", path, headers={"Last-Event-ID": last})).status_code == 204


async def test_a_retry_names_the_retried_job_and_keeps_its_checkpoints(api: Any, told: Any) -> None:
    await told("step_complete", **step(1))
    saved = {"latest_checkpoint": "tinker://c/1", "best_checkpoint": "tinker://c/1"}
    await told("checkpoint_saved", artifacts=saved)
    await told("training_error", error="no", data={"code": "diverged", "fault": "job"})

    repeated = await api("POST", f"{api.jobs}/{told.job}/retry")

    job = repeated.json()
    assert (repeated.status_code, job["status"], job["retry_of"]) == (201, "queued", told.job)
    assert job["artifacts"] == saved
    assert job["error"] is None
    assert (await api("GET", f"{api.jobs}/{job['id']}")).json()["metrics"]["steps"] == [1]


async def test_a_retry_repeated_with_its_idempotency_key_returns_the_first_one(
    api: Any, told: Any
) -> None:
    await told("training_error", error="no", data={"code": "diverged", "fault": "job"})
    path, key = f"{api.jobs}/{told.job}/retry", {"Idempotency-Key": "once"}

    answers = await asyncio.gather(*(api("POST", path, headers=key) for _ in range(3)))
    other = await api("POST", f"{api.jobs}/{answers[0].json()['id']}/retry", headers=key)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await api.count() == 2
    assert (other.status_code, other.json()["type"]) == (409, "conflict_error")


async def test_a_job_whose_model_the_engine_lost_cannot_be_retried(
    api: Any, told: Any, engine: Any
) -> None:
    await told("training_error", error="no", data={"fault": "job"})
    del engine.models[0]

    refused = await api("POST", f"{api.jobs}/{told.job}/retry")

    assert (refused.status_code, refused.json()["type"]) == (422, "validation_error")
    assert await api.count() == 1


async def test_a_running_or_completed_job_cannot_be_retried(api: Any, told: Any) -> None:
    running = await api("POST", f"{api.jobs}/{told.job}/retry")
    await told("training_end")
    complete = await api("POST", f"{api.jobs}/{told.job}/retry")
    cancel = await api("POST", f"{api.jobs}/{told.job}/cancel")

    assert [a.status_code for a in (running, complete, cancel)] == [409, 409, 409]
