"""The rollouts of an RL job: kept once, in bounds, through retries, and deleted with the job."""

from typing import Any

import pytest
from dreadnode_api.maintenance.disk import disk_usage
from dreadnode_api.models.jobs import Job
from dreadnode_api.training import rollouts


def text(value: str) -> dict[str, Any]:
    return {"text": value, "left_out": 0, "rest": ""}


def report(step: int, said: str = "4", **fields: Any) -> dict[str, Any]:
    """Return the rollouts of a step as a sandbox reports them."""
    completion = {
        "number": 1, "reward": 1, "advantage": 0.5, "truncated": False, "tokens": 2, "error": None,
        "turns": [{"role": "assistant", "content": text(said)}], "turns_total": 1,
    }  # fmt: skip
    group = {
        "row": 1, "dataset": None, "prompt": text("2+2?"), "expected": None, "degenerate": False,
        "staleness": 0, "reward_mean": 0.5, "completions": [completion], "completions_total": 1,
    }  # fmt: skip
    return {"step": step, "groups": [group], "groups_total": 9, **fields}


class Running:
    """A running RL job, and its sandbox."""

    def __init__(self, api: Any, job_id: str, key: str) -> None:
        self.api, self.job_id, self.key = api, job_id, key
        self.path = f"{api.jobs}/{job_id}"

    async def report(self, event_type: str, **more: Any) -> Any:
        body = {"event_type": event_type, **more}
        return await self.api("POST", f"{self.path}/progress", key=self.key, json=body)

    async def read(self, query: str = "", **more: Any) -> Any:
        return await self.api("GET", f"{self.path}/rollouts{query}", **more)

    async def fail(self) -> None:
        await self.report("training_error", error="no", data={"fault": "job"})
        async with self.api.database.writing() as session:
            (await session.get_one(Job, self.job_id)).lease = None


@pytest.fixture
async def running(api: Any) -> Running:
    config = {"algorithm": "ppo", "prompt_dataset_ref": {"name": "rows", "version": "1.0.0"}}
    body = {"model": "Qwen/Qwen3-8B", "trainer_type": "rl", "config": config}
    await api.push()
    created = await api("POST", api.jobs, json=body)
    assert created.status_code == 201, created.text
    job, key = await api.start()
    return Running(api, job["id"], key)


async def test_the_newest_step_or_the_one_that_is_named_is_returned(running: Running) -> None:
    empty = (await running.read()).json()
    for step in (1, 3):
        kept = await running.report("rollouts", rollouts=report(step, f"<b>\x1b[31m {step}"))
        assert kept.status_code == 200, kept.text

    newest, first = (await running.read()).json(), (await running.read("?step=1")).json()

    assert empty == {"steps": [], "step": None, "groups": [], "groups_total": 0}
    assert newest == {"steps": [1, 3], **report(3, "<b>\x1b[31m 3")}
    assert first == {"steps": [1, 3], **report(1, "<b>\x1b[31m 1")}
    missing = await running.read("?step=2")
    assert (missing.status_code, missing.json()["detail"]) == (
        404,
        (
            f"The job `{running.job_id}` has no rollouts of step 2; "
            "the nearest steps that it has kept are 1 and 3"
        ),
    )


async def test_rollouts_can_be_read_by_those_who_can_read_the_job(running: Running) -> None:
    await running.report("rollouts", rollouts=report(1))

    codes = [
        (await running.read(key=key)).status_code
        for key in ("reader", running.key, "stranger", None)
    ]

    assert codes == [200, 200, 404, 401]


async def test_an_attempt_that_resumes_replaces_what_came_after_its_checkpoint(
    running: Running,
) -> None:
    for step in (1, 2, 3):
        await running.report("rollouts", rollouts=report(step))

    await running.report("training_start", data={"start": 1})
    await running.report("rollouts", rollouts=report(2, "5"))

    newest = (await running.read()).json()
    assert newest["steps"] == [1, 2]
    assert newest["groups"][0]["completions"][0]["turns"][0]["content"]["text"] == "5"


async def test_a_retry_has_the_rollouts_up_to_its_checkpoint(running: Running) -> None:
    saved = {"latest_checkpoint": "tinker://run-1/weights/step-000002"}
    for step in (1, 2, 3):
        await running.report("rollouts", rollouts=report(step))
    await running.report("checkpoint_saved", data={"step": 2}, artifacts=saved)
    await running.fail()

    made = (await running.api("POST", f"{running.path}/retry")).json()
    _, key = await running.api.start()
    retry = Running(running.api, made["id"], key)
    await retry.report("training_start", data={"start": made["start_step"]})

    assert (await retry.read()).json() == {"steps": [1, 2], **report(2)}


async def test_rollouts_count_as_space_of_their_job_and_are_deleted_with_it(
    running: Running,
) -> None:
    await running.report("rollouts", rollouts=report(1, "x" * 1000))
    await running.fail()

    async with running.api.database.reading() as session:
        holders = (await disk_usage(session, running.api.settings)).holders
    deleted = await running.api("DELETE", running.path)

    assert {each.name for each in holders if each.bytes} >= {running.job_id}
    assert deleted.status_code == 200, deleted.text


BROKEN = {
    "an event without them": ({"rollouts": None}, "An event `rollouts` needs the rollouts"),
    "an unknown field": ({"rollouts": report(1, extra=1)}, "unknown field"),
    "step 0": ({"rollouts": report(0)}, "greater than or equal to 1"),
    "too many groups": ({"rollouts": report(1, groups=report(1)["groups"] * 65)}, "at most 64"),
    "too many bytes": ({"rollouts": report(1, "x" * rollouts.MAX_BYTES)}, "1,048,576 bytes"),
    "another event": (
        {"event_type": "log", "message": "x", "rollouts": report(1)},
        "Only an event `rollouts` may have rollouts",
    ),
}


@pytest.mark.parametrize(("changes", "said"), BROKEN.values(), ids=BROKEN)
async def test_broken_rollouts_are_refused_and_nothing_is_stored(
    running: Running, changes: dict[str, Any], said: str
) -> None:
    body = {"event_type": "rollouts", **changes}

    refused = await running.report(**body)

    assert refused.status_code == 422
    assert said in refused.text
    assert (await running.read()).json()["steps"] == []


async def test_a_job_keeps_a_bounded_number_of_steps(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "MAX_STEPS", 2)
    for step in (1, 2, 2):
        assert (await running.report("rollouts", rollouts=report(step))).status_code == 200

    refused = await running.report("rollouts", rollouts=report(3))

    assert (refused.status_code, (await running.read()).json()["steps"]) == (422, [1, 2])


async def test_a_supervised_job_has_no_rollouts(api: Any) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    running = Running(api, job["id"], key)

    asked, reported = await running.read(), await running.report("rollouts", rollouts=report(1))

    assert (asked.status_code, reported.status_code) == (409, 422)
    assert "only an RL job has rollouts" in asked.json()["detail"]
