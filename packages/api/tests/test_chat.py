"""Chats with the weights of a job: which weights, who may chat, and what a session may use."""

import asyncio
import json
import os
from typing import Any

import psutil
import pytest
from dreadnode_api.runtime_processes import child
from dreadnode_api.serving import process_pool
from dreadnode_api.serving.process_pool import ProcessPool

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Chats write nothing to the database, and other tests read checkpoints from both."""

WEIGHTS = "tinker://run-1/weights/step-{:06d}"


async def job_with(api: Any, behavior: str | None = None) -> tuple[dict[str, Any], str]:
    """A job in its first attempt whose chat session behaves as BEHAVIOR says, and its token."""
    config = {"system_prompt": json.dumps({"chat": behavior})} if behavior else {}
    await api.push()
    await api.job(config=config)
    job, key = await api.start()
    return job, key


async def report(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> None:
    path = f"{api.jobs}/{job['id']}/progress"
    told = await api("POST", path, key=key, json={"event_type": kind, **more})
    assert told.status_code == 200, told.text


async def saved(api: Any, job: dict[str, Any], key: str, step: int, **more: Any) -> None:
    artifacts = {"latest_checkpoint": WEIGHTS.format(step), **more}
    await report(api, job, key, "checkpoint_saved", data={"step": step}, artifacts=artifacts)


async def chat(api: Any, job: dict[str, Any], said: str = "Hello", **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": said}], **more}
    key = body.pop("key", "member")
    return await api("POST", f"{api.jobs}/{job['id']}/chat", key=key, json=body)


async def trained(api: Any, behavior: str | None = None) -> dict[str, Any]:
    """A job with one checkpoint."""
    job, key = await job_with(api, behavior)
    await saved(api, job, key, 10)
    return job


async def test_a_running_jobs_newest_checkpoint_completes_a_chat(api: Any) -> None:
    job, key = await job_with(api)
    await saved(api, job, key, 10)
    await saved(api, job, key, 20)

    answer = await chat(api, job, "Hello", max_tokens=7)

    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "job_id": job["id"],
        "model": job["model"],
        "trained_model": job["trained_model"],
        "rehearsal": False,
        "checkpoint": WEIGHTS.format(20),
        "step": 20,
        "message": {
            "role": "assistant",
            "content": "Hello",
            "reasoning": None,
            "tool_calls": [],
        },
        "finish_reason": "stop",
        "usage": {"prompt_tokens": answer.json()["usage"]["prompt_tokens"], "sampled_tokens": 7},
        "renderer": "fake",
        "format_notes": ["fake replaces real"],
    }


async def test_an_ended_job_chats_with_its_last_weights_or_any_named_checkpoint(api: Any) -> None:
    job, key = await job_with(api)
    for step in (10, 20):
        await saved(api, job, key, step, best_checkpoint=WEIGHTS.format(10))
    final = {
        "latest_checkpoint": "tinker://run-1/weights/final",
        "sampler_checkpoint": "tinker://run-1/sampler_weights/final",
    }
    await report(api, job, key, "training_end", artifacts=final)

    names = (None, "final", "best", "step-000020", WEIGHTS.format(20))
    answers = [await chat(api, job, checkpoint=name) for name in names]

    assert [answer.json()["checkpoint"] for answer in answers] == [
        "tinker://run-1/sampler_weights/final",
        "tinker://run-1/sampler_weights/final",
        WEIGHTS.format(10),
        WEIGHTS.format(20),
        WEIGHTS.format(20),
    ]


async def test_a_missing_checkpoint_is_named_in_the_error(api: Any) -> None:
    job, key = await job_with(api)

    early = await chat(api, job)
    await saved(api, job, key, 10)
    unknown = await chat(api, job, checkpoint="step-000099")

    assert early.status_code == 409
    assert early.json()["detail"] == (
        "The job has no checkpoint yet; it saves the first one after `checkpoint_interval` steps, "
        "or when it ends"
    )
    assert (unknown.status_code, unknown.json()["detail"]) == (
        422,
        "The job has no checkpoint `step-000099`; it has `step-000010`",
    )


async def test_a_chat_with_a_rehearsal_names_the_stand_in(api: Any) -> None:
    await api.push()
    await api.job(rehearse=True)
    job, key = await api.start()
    await saved(api, job, key, 10)

    answer = (await chat(api, job)).json()

    assert (answer["rehearsal"], answer["trained_model"]) == (True, job["trained_model"])
    assert answer["trained_model"] != answer["model"]


async def test_readers_and_sandboxes_may_not_chat(api: Any) -> None:
    job, key = await job_with(api)
    await saved(api, job, key, 10)

    asked = {who: await chat(api, job, key=who) for who in ("reader", "stranger", key)}

    assert [answer.status_code for answer in asked.values()] == [403, 404, 403]


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
        {"max_tokens": 0},
        {"max_tokens": 1_000_000},
        {"temperature": -1},
        {"top_p": 0},
        {"stops": ["a"]},
    ],
)
async def test_an_invalid_request_is_refused(api: Any, wrong: dict[str, Any]) -> None:
    job = await trained(api)

    answer = await chat(api, job, **wrong)

    assert (answer.status_code, answer.json()["type"]) == (422, "validation_error")


async def test_a_conversation_that_is_too_long_is_refused(
    api: Any,
) -> None:
    job = await trained(api)

    answer = await chat(api, job, "long")

    assert (answer.status_code, answer.json()["detail"]) == (422, "There is no room")


async def test_a_session_gets_a_key_for_the_runs_of_this_job_and_no_other_secret(api: Any) -> None:
    object.__setattr__(api.settings, "engine_url", "http://engine")
    job = await trained(api)

    names = (await chat(api, job, "environment")).json()["message"]["content"].split()

    ours = [n for n in names if n.startswith(("DREADNODE", "TINKER"))]
    assert ours == ["TINKER_API_KEY", "TINKER_BASE_URL", "TINKER_TELEMETRY"]


async def test_a_session_stays_warm_until_it_is_idle_for_long_enough(api: Any) -> None:
    object.__setattr__(api.settings, "chat_idle_seconds", 0.2)
    job = await trained(api)

    first, second = [(await chat(api, job, "process")).json() for _ in range(2)]
    pid, number = second["message"]["content"].split()

    assert first["message"]["content"] == f"{pid} 1"
    assert number == "2"
    async with asyncio.timeout(20):
        while psutil.pid_exists(int(pid)):
            await asyncio.sleep(0.02)
    third = (await chat(api, job, "process")).json()["message"]["content"]
    assert third.split() != [pid, "3"]


async def test_an_idle_session_is_replaced_and_a_busy_one_is_awaited(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, key = await job_with(api, "slow")
    for step in (10, 20):
        await saved(api, job, key, step)
    names = ("step-000010", "step-000020")

    sequential, parallel, refused = [], [], []
    for wait_seconds, responses in ((30.0, parallel), (0.2, refused)):
        monkeypatch.setattr(process_pool, "WAIT_SECONDS", wait_seconds)
        await api.app.state.serving.close()
        api.app.state.serving = ProcessPool(api.settings.model_copy(update={"chats_at_once": 1}))
        sequential += [await chat(api, job, checkpoint=name) for name in names]
        responses += await asyncio.gather(*(chat(api, job, checkpoint=name) for name in names))

    assert [response.status_code for response in (*sequential, *parallel)] == 6 * [200]
    assert sorted(response.status_code for response in refused) == [200, 429]
    late = next(response for response in refused if response.status_code == 429)
    assert late.headers["retry-after"] == "5"
    assert late.json()["detail"] == "No slot for models became free within 0.2 s; try again in 5 s"


async def test_a_hanging_session_is_killed_with_all_its_child_processes(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "CLOSE_SECONDS", 0.2)
    object.__setattr__(api.settings, "chat_timeout", 1.0)
    job = await trained(api, "hang")

    answer = await chat(api, job)

    assert (answer.status_code, answer.json()["type"]) == (504, "gateway_timeout_error")
    assert "did not respond within 1 s" in answer.json()["detail"]
    async with asyncio.timeout(20):
        while [c for c in psutil.Process(os.getpid()).children(recursive=True) if _chats(c)]:
            await asyncio.sleep(0.02)


def _chats(process: psutil.Process) -> bool:
    try:
        return "serve" in process.cmdline()
    except psutil.Error:
        return False


async def test_an_unavailable_engine_is_a_502_and_a_failed_session_a_500(api: Any) -> None:
    away = await trained(api, "refuse")
    refused = [await chat(api, away) for _ in range(2)]
    await api.job(config={"system_prompt": json.dumps({"chat": "crash"})})
    broken, key = await api.start()
    await saved(api, broken, key, 30)

    crashed = await chat(api, broken)

    assert [(a.status_code, a.json()["detail"]) for a in refused] == 2 * [
        (502, "The engine was away")
    ]
    assert crashed.status_code == 500


async def test_a_request_after_a_process_that_failed_gets_a_new_one(api: Any) -> None:
    job = await trained(api)

    crashed, answered = [await chat(api, job, text) for text in ("crash", "Hello")]

    assert (crashed.status_code, answered.status_code) == (500, 200)
    assert answered.json()["message"]["content"] == "Hello"
