"""The comparison of jobs in the console."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def trained(api: Any, **changes: Any) -> dict[str, Any]:
    """A job with results and a checkpoint, whose chat session echoes."""
    await api.job(**changes)
    job, key = await api.start()
    path = f"{api.jobs}/{job['id']}/progress"
    loss = 1 / (1 + job["config"]["seed"])
    for event in (
        {
            "event_type": "step_complete",
            "metrics": {"train/loss": [loss], "steps": [1]},
            "data": {"step": 1, "steps": 2, "loss": loss},
        },
        {
            "event_type": "checkpoint_saved",
            "data": {"step": 1},
            "artifacts": {"latest_checkpoint": f"tinker://{job['id']}/weights/step-000001"},
        },
    ):
        told = await api("POST", path, key=key, json=event)
        assert told.status_code == 200, told.text
    return job


async def test_two_jobs_stand_side_by_side_with_what_differs(api: Any, console: Any) -> None:
    await api.push()
    first = await trained(api, name="<script>alert(1)</script>", config={"seed": 1})
    second = await trained(api, name="\uff37" * 200, config={"seed": 2, "lora_rank": 4})
    await console.sign_in("reader")

    choice = await console.get("/ws/lab/compare")
    page = await console.get(f"/ws/lab/compare?job={first['id']}&job={second['id']}")
    text = console.text(page)

    assert f'value="{first["id"]}"' in choice.text
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "seed 1 2" in text
    assert "lora_rank 16 4" in text
    assert "epochs 1 1" not in text
    assert "Loss 0.5 0.3333 best" in text
    assert "at list price" in text
    assert 'name="prompt"' not in page.text


async def test_each_job_answers_the_same_prompt_or_says_why_it_cannot(
    api: Any, console: Any
) -> None:
    await api.push()
    first = await trained(api, config={"seed": 1})
    second = await api.job(config={"seed": 2})
    await console.sign_in("member")
    page = await console.get(f"/ws/lab/compare?job={first['id']}&job={second['id']}")
    sent = {"prompt": "<b>Hello", "job": [first["id"], second["id"]]}

    answers = await console.post("/ws/lab/compare/answers", page, **sent)

    assert answers.status_code == 200
    assert "The job has no checkpoint yet" in answers.text
    assert "step 1," in answers.text
    assert "&lt;b&gt;Hello" in answers.text
    assert json.dumps(first["id"]) not in answers.text


async def test_what_cannot_be_compared_is_a_sentence(api: Any, console: Any) -> None:
    await api.push()
    ids = [(await api.job())["id"] for _ in range(7)]
    await console.sign_in("reader")
    many = await console.get("/ws/lab/compare?" + "&".join(f"job={each}" for each in ids))
    page = await console.get("/ws/lab/jobs")
    refused = await console.post("/ws/lab/compare/answers", page, prompt="Hello", job=ids[0])
    api.client.cookies.clear()
    await console.sign_in("stranger")
    other = await console.get(f"/ws/lab/compare?job={ids[0]}&job={ids[1]}")

    assert many.status_code == 422
    assert "Choose 2 to 6 jobs to compare, not 7" in console.text(many)
    assert refused.status_code == 403
    assert other.status_code == 404
