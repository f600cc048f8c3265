"""Where a retry resumes, and that no retry repeats steps without a request to do so."""

from collections.abc import Sequence
from typing import Any

import pytest
from dreadnode_api.models.checkpoints import Checkpoint, State
from sqlalchemy import update

PATH = "tinker://run-1/weights/step-{:06d}"


async def ended(api: Any, *steps: int, best: int | None = None, start: int = 0) -> dict[str, Any]:
    """Let the oldest queued job run, save a checkpoint after each of `steps`, and fail."""
    job, key = await api.start()

    async def tell(event_type: str, **more: Any) -> None:
        path, body = f"{api.jobs}/{job['id']}/progress", {"event_type": event_type, **more}
        assert (await api("POST", path, key=key, json=body)).status_code == 200

    await tell("training_start", data={"start": start})
    saved = list(job["artifacts"].get("checkpoints", []))
    for step in steps:
        metrics = {"steps": [step], "train/loss": [1.0]}
        await tell("step_complete", metrics=metrics, data={"step": step})
        saved.append(PATH.format(step))
        artifacts = {"latest_checkpoint": saved[-1], "checkpoints": saved}
        if step == best:
            artifacts["best_checkpoint"] = saved[-1]
        await tell("checkpoint_saved", data={"step": step}, artifacts=artifacts)
    await tell("training_error", error="no", data={"fault": "job"})
    return job


async def expire(api: Any, steps: Sequence[int]) -> None:
    async with api.database.writing() as session:
        paths = [PATH.format(step) for step in steps]
        where = Checkpoint.path.in_(paths)
        await session.execute(update(Checkpoint).where(where).values(state=State.EXPIRED))


async def retry(api: Any, job: dict[str, Any], **more: Any) -> Any:
    return await api("POST", f"{api.jobs}/{job['id']}/retry", **more)


@pytest.fixture
async def queued(api: Any) -> Any:
    await api.push()
    return await api.job()


async def test_a_retry_reports_the_step_from_which_it_resumes(api: Any, queued: Any) -> None:
    job = await ended(api, 10, 20)

    repeated = (await retry(api, job)).json()

    assert repeated["start_step"] == 20
    log = (await api("GET", f"{api.jobs}/{repeated['id']}/logs")).json()["items"]
    told = f"This job retries `{job['id']}` and resumes from the checkpoint of step 20"
    assert told in [line["message"] for line in log]


async def test_a_retry_resumes_from_the_newest_checkpoint_that_has_not_expired(
    api: Any, queued: Any
) -> None:
    job = await ended(api, 10, 20, 30, 40, best=10)
    await expire(api, [20, 40])

    repeated = (await retry(api, job)).json()

    assert repeated["start_step"] == 30
    assert repeated["artifacts"] == {
        "latest_checkpoint": PATH.format(30),
        "checkpoints": [PATH.format(10), PATH.format(30)],
        "best_checkpoint": PATH.format(10),
    }


async def test_a_job_without_checkpoints_starts_over(api: Any, queued: Any) -> None:
    job = await ended(api)

    repeated = await retry(api, job)

    assert (repeated.status_code, repeated.json()["start_step"]) == (201, 0)


async def test_a_job_whose_checkpoints_have_all_expired_starts_over_only_on_request(
    api: Any, queued: Any
) -> None:
    job = await ended(api, 10, 20)
    await expire(api, [10, 20])

    refused = await retry(api, job)
    assert (refused.status_code, refused.json()["type"]) == (409, "conflict_error")
    assert refused.json()["detail"] == (
        f"All checkpoints of the job `{job['id']}` have expired, so the retry would start over "
        f"from step 0; to do that, run `dn train retry {job['id']} --from-start`, or send "
        "`from_start: true` in the request's body"
    )
    assert await api.count() == 1

    repeated = await retry(api, job, json={"from_start": True})
    assert repeated.status_code == 201
    assert (repeated.json()["start_step"], repeated.json()["artifacts"]) == (0, {})
    again = await ended(api)
    assert again["id"] == repeated.json()["id"]
    assert (await retry(api, again)).status_code == 201


async def test_from_start_ignores_existing_checkpoints_and_metrics(api: Any, queued: Any) -> None:
    job = await ended(api, 10)

    repeated = (await retry(api, job, json={"from_start": True})).json()

    assert (repeated["start_step"], repeated["artifacts"]) == (0, {})
    assert (await api("GET", f"{api.jobs}/{repeated['id']}")).json()["metrics"] == {}


async def test_a_retry_without_checkpoints_is_retried_from_the_one_it_started_with(
    api: Any, queued: Any
) -> None:
    first = await ended(api, 10, 20)
    await retry(api, first)
    second = await ended(api, start=20)
    await expire(api, [20])

    third = await retry(api, second)

    assert (third.json()["start_step"], third.json()["retry_of"]) == (10, second["id"])
    assert third.json()["artifacts"]["latest_checkpoint"] == PATH.format(10)


async def test_a_retry_whose_checkpoint_the_engine_lost_reports_that_it_started_over(
    api: Any, queued: Any
) -> None:
    first = await ended(api, 10)
    repeated = (await retry(api, first)).json()
    await ended(api, start=0)

    found = (await api("GET", f"{api.jobs}/{repeated['id']}")).json()

    assert (repeated["start_step"], found["start_step"]) == (10, 0)


async def test_an_idempotency_key_of_a_resuming_retry_is_not_one_of_a_retry_from_the_start(
    api: Any, queued: Any
) -> None:
    job, key = await ended(api, 10), {"Idempotency-Key": "once"}
    await retry(api, job, headers=key)

    other = await retry(api, job, headers=key, json={"from_start": True})
    misspelt = await retry(api, job, json={"from_the_start": True})

    assert (other.status_code, misspelt.status_code) == (409, 422)
    assert await api.count() == 2
