"""The protocols of OpenAI's and Anthropic's clients: what they name, send and get."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from dreadnode_api.runtime_processes import child
from dreadnode_api.serving.process_pool import ProcessPool

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

WEIGHTS = "tinker://run-1/weights/step-{:06d}"
MODEL = "Qwen/Qwen3-8B"
ANTHROPIC = {"anthropic-version": "2023-06-01"}


async def trained(api: Any, name: str | None = None) -> dict[str, Any]:
    """A job with a name and two checkpoints, of which the first is the best."""
    await api.push()
    await api.job(**({"name": name} if name else {}))
    job, key = await api.start()
    for step in (10, 20):
        told = await api(
            "POST",
            f"{api.jobs}/{job['id']}/progress",
            key=key,
            json={
                "event_type": "checkpoint_saved",
                "data": {"step": step},
                "artifacts": {
                    "latest_checkpoint": WEIGHTS.format(step),
                    "best_checkpoint": WEIGHTS.format(10),
                },
            },
        )
        assert told.status_code == 200, told.text
    return dict(job)


async def post(api: Any, path: str, body: dict[str, Any], key: str = "member") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {api.keys.get(key, key)}"}
    if path.startswith("/v1/messages"):
        headers = {"x-api-key": api.keys.get(key, key), **ANTHROPIC}
    found: httpx2.Response = await api.client.post(path, headers=headers, json=body)
    return found


async def chat(api: Any, model: str, text: str = "Hello", **more: Any) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    key = body.pop("key", "member")
    return await post(api, "/v1/chat/completions", body, key)


def events(response: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_a_model_is_a_base_a_job_a_name_a_checkpoint_or_a_path(api: Any) -> None:
    job = await trained(api, "sums")
    names = {
        MODEL: None,
        job["id"]: WEIGHTS.format(20),
        "sums": WEIGHTS.format(20),
        f"{job['id']}@best": WEIGHTS.format(10),
        "sums@step-000010": WEIGHTS.format(10),
        WEIGHTS.format(10): WEIGHTS.format(10),
        f"{MODEL};{WEIGHTS.format(20)}": WEIGHTS.format(20),
    }

    found = {name: (await chat(api, name, "opening")).json() for name in names}

    openings = {
        name: json.loads(body["choices"][0]["message"]["content"]) for name, body in found.items()
    }
    assert {name: opening["checkpoint"] for name, opening in openings.items()} == names
    assert {name: body["system_fingerprint"] for name, body in found.items()} == names
    assert found["sums"]["weights"]["step"] == 20
    assert {body["model"] for body in found.values()} == set(names)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("Qwen/Qwen3-8", "Unknown training base model 'Qwen/Qwen3-8'. Did you mean one of: Qwen/"),
        ("openai/gpt-oss-20b", "This server's engine does not hold `openai/gpt-oss-20b`"),
        ("nothing", "There is no model and no job `nothing`"),
        ("tinker://run-9/weights/x", "Your organization has no checkpoint `tinker://run-9/"),
        ("sums@step-000099", "The job has no checkpoint `step-000099`; it has `step-000020`"),
        (f"openai/gpt-oss-20b;{WEIGHTS.format(10)}", "was not trained on `openai/gpt-oss-20b`"),
    ],
)
async def test_a_model_that_does_not_exist_is_refused_in_both_shapes(
    api: Any, model: str, sentence: str
) -> None:
    await trained(api, "sums")

    one = await chat(api, model)
    messages = [{"role": "user", "content": "x"}]
    other = await post(api, "/v1/messages", {"model": model, "messages": messages, "max_tokens": 5})

    assert one.status_code == other.status_code
    assert one.status_code in (400, 404)
    assert sentence in one.json()["error"]["message"]
    assert one.json()["error"]["type"] == "invalid_request_error"
    assert other.json()["type"] == "error"
    assert sentence in other.json()["error"]["message"]


async def test_weights_of_another_organization_do_not_exist_and_readers_may_only_list(
    api: Any,
) -> None:
    job = await trained(api, "sums")

    answers = [
        await chat(api, name, key="stranger") for name in (job["id"], "sums", WEIGHTS.format(10))
    ]
    read = await chat(api, "sums", key="reader")
    wrong = await chat(api, "sums", key="sk-not-a-token")
    headers = {"Authorization": f"Bearer {api.keys['reader']}"}
    listed = (await api.client.get("/v1/models", headers=headers)).json()["data"]
    one = await api.client.get(f"/v1/models/{MODEL}", headers=headers)

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert (read.status_code, read.json()["error"]["type"]) == (403, "permission_error")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
    assert {each["id"] for each in listed} >= {MODEL, job["id"]}
    assert one.json()["id"] == MODEL


async def test_a_stream_has_the_parts_the_end_and_the_usage(api: Any) -> None:
    job = await trained(api)
    options = {"stream": True, "stream_options": {"include_usage": True}}

    found = events(await chat(api, job["id"], "one two three", **options))

    assert found.pop() == "[DONE]"
    texts = [c["delta"].get("content") for e in found for c in e["choices"]]
    assert texts == ["", "one ", "two ", "three ", None]
    assert [c["finish_reason"] for e in found for c in e["choices"]][-1] == "stop"
    assert found[-1]["usage"]["completion_tokens"] == 5
    assert found[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert {e["object"] for e in found} == {"chat.completion.chunk"}
    assert len({e["id"] for e in found}) == 1


async def test_tool_calls_have_ids_in_both_protocols(api: Any) -> None:
    job = await trained(api)
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]

    whole = (await chat(api, job["id"], tools=tools)).json()["choices"][0]
    none = (await chat(api, job["id"], tools=tools, tool_choice="none")).json()["choices"][0]
    streamed = events(await chat(api, job["id"], tools=tools, stream=True))
    body = {
        "model": job["id"],
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 5,
        "tools": tools,
    }
    message = (await post(api, "/v1/messages", body)).json()

    (call,) = whole["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": "{}"})
    assert call["id"].startswith("call_")
    assert whole["finish_reason"] == "tool_calls"
    assert "tool_calls" not in none["message"]
    deltas = [c["delta"] for e in streamed if e != "[DONE]" for c in e["choices"]]
    assert [d["tool_calls"][0]["function"]["name"] for d in deltas if "tool_calls" in d] == ["add"]
    assert message["stop_reason"] == "tool_use"
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]


async def test_prompts_are_completed_in_their_order(api: Any) -> None:
    job = await trained(api)
    body = {"model": job["id"], "prompt": ["a", "b"], "n": 2}

    found = (await post(api, "/v1/completions", body)).json()
    stream = events(await post(api, "/v1/completions", {**body, "prompt": "c d", "stream": True}))

    assert [c["text"] for c in found["choices"]] == ["a", "a", "b", "b"]
    assert [c["index"] for c in found["choices"]] == [0, 1, 2, 3]
    assert "".join(c["text"] for e in stream[:-1] for c in e["choices"]) == "c d "


async def test_messages_stream_blocks_and_count_their_tokens(api: Any) -> None:
    job = await trained(api)
    body = {"model": job["id"], "messages": [{"role": "user", "content": "a b"}]}

    stream = events(await post(api, "/v1/messages", {**body, "max_tokens": 4, "stream": True}))
    counted = (await post(api, "/v1/messages/count_tokens", body)).json()

    assert [event["type"] for event in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert stream[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert counted["input_tokens"] > 10


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"response_format": {"type": "json_object"}}, "`response_format` is not enforced here"),
        ({"tool_choice": "required"}, "`tool_choice` can be `auto` or `none`"),
        ({"frequency_penalty": 0.5}, "`frequency_penalty` is not supported; leave it out"),
        ({"logit_bias": {"5": 1}}, "`logit_bias` is not supported; leave it out"),
        ({"n": 10_000}, "`n`: "),
        ({"stop": ""}, "`stop"),
        ({"top_logprobs": 3}, "`top_logprobs` needs `logprobs: true`"),
        ({"max_tokens": 0}, "`max_tokens`: "),
        ({"strange": 1}, "`strange`: unknown field"),
        ({"messages": []}, "`messages`: "),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the model adds it"),
        ({"messages": [{"role": "user", "content": "long"}]}, "There is no room"),
    ],
)
async def test_a_field_without_effect_here_is_refused_by_name(
    api: Any, wrong: dict[str, Any], sentence: str
) -> None:
    job = await trained(api)

    found = await chat(api, job["id"], **wrong)

    assert found.status_code == 400, found.text
    assert sentence in found.json()["error"]["message"]


async def test_an_error_before_the_first_part_is_a_status_and_one_behind_it_an_event(
    api: Any,
) -> None:
    job = await trained(api)

    early = await chat(api, job["id"], "long", stream=True)
    crashed = await chat(api, job["id"], "crash", stream=True)

    assert (early.status_code, early.json()["error"]["message"]) == (400, "There is no room")
    assert crashed.status_code == 500
    assert "The process that serves this model ended" in crashed.json()["error"]["message"]


async def test_requests_share_a_process_and_a_disconnected_one_is_cancelled(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process that hangs does not end by itself.
    monkeypatch.setattr(child, "CLOSE_SECONDS", 0.2)
    job = await trained(api)
    pool: ProcessPool = api.app.state.serving

    answers = await asyncio.gather(*(chat(api, job["id"], "process") for _ in range(5)))
    texts = [a.json()["choices"][0]["message"]["content"].split() for a in answers]
    waiting = asyncio.create_task(chat(api, job["id"], "hang"))
    (process,) = pool._processes.values()
    async with asyncio.timeout(30):
        while not process.active:
            await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert len({pid for pid, _ in texts}) == 1
    assert {number for _, number in texts} == {"1", "2", "3", "4", "5"}
    assert process.active == 0
