"""The chat with a job in the console."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_message_is_streamed_to_members_of_the_jobs_organization(
    api: Any, console: Any
) -> None:
    await api.push()
    await api.job(name="<script>alert(1)</script>")
    job, key = await api.start()
    chat = f"/ws/lab/jobs/{job['id']}/chat"
    body = {"messages": [{"role": "user", "content": "Hello"}]}

    async def say(page: Any, **more: Any) -> Any:
        headers = {"X-Form-Token": console.form_token(page)}
        return await api.client.post(chat, json=body | more, headers=headers)

    await console.sign_in("member")
    page = await console.get(chat)
    early = await say(page)
    saved = {
        "event_type": "checkpoint_saved",
        "data": {"step": 10},
        "artifacts": {"latest_checkpoint": "tinker://run-1/weights/step-000010"},
    }
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=saved)
    page = await console.get(chat)
    answer = await say(page)
    wrong = await say(page, temperature=11)
    forged = await api.client.post(chat, json=body)
    api.client.cookies.clear()
    await console.sign_in("reader")
    reader = await say(await console.get("/ws/lab/jobs"))
    api.client.cookies.clear()
    await console.sign_in("stranger")
    stranger = await say(await console.get("/ws/lab/jobs"))
    lines = [json.loads(line) for line in answer.text.splitlines()]

    assert "<script>alert" not in page.text
    assert 'value="step-000010"' in page.text
    assert early.status_code == 409
    assert "no checkpoint yet" in early.json()["detail"]
    assert answer.status_code == 200
    assert "Hello" in "".join(line.get("content", "") for line in lines)
    assert lines[-1]["answer"]["usage"]["sampled_tokens"] > 0
    assert wrong.status_code == 422
    assert [forged.status_code, reader.status_code, stranger.status_code] == [403, 403, 404]
