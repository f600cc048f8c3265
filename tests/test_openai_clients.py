"""The OpenAI and Anthropic clients, unmodified, against a whole server with a trained job."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import tinker
import yaml

from .server import MODEL, Server
from .test_journey import submit, write_rows

HELLO: Any = [{"role": "user", "content": "3 + 3?"}]
TOOL: Any = {"name": "f", "parameters": {"type": "object", "properties": {}}}
"""A short one: the tiny model's context holds few of its tokens, which are bytes."""


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    profile = yaml.safe_load((server.config / "config.yaml").read_text())["servers"]
    found: str = next(iter(profile.values()))["api_key"]
    return found


@pytest.fixture(scope="module")
def job(server: Server, token: str) -> str:
    rows = write_rows(server.folder / "served.jsonl")
    assert server.dn("dataset", "push", str(rows), "served@1.0.0").code == 0
    made = submit(server, "--dataset", "served@1.0.0", "--steps", "1", "--name", "sums", "--wait")
    return str(made["id"])


@pytest.fixture
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.ports[0]}"


def test_the_openai_client_lists_models_and_reads_whole_and_streamed_messages(
    address: str, token: str, job: str
) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=token)
    sampling: Any = {"messages": HELLO, "max_tokens": 12, "seed": 5, "temperature": 1.0}

    listed = [model.id for model in client.models.list()]
    by_name = {
        name: client.chat.completions.create(model=name, **sampling)
        for name in (job, "sums", f"{job}@final", MODEL)
    }
    stream = client.chat.completions.create(
        model=job, stream=True, stream_options={"include_usage": True}, **sampling
    )
    chunks = list(stream)

    assert {job, MODEL} <= set(listed)
    whole = by_name[job].choices[0]
    assert by_name["sums"].choices[0].message == whole.message
    assert by_name[f"{job}@final"].choices[0].message == whole.message
    assert by_name[MODEL].system_fingerprint is None
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == (whole.message.content or "")
    ended = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1]
    assert ended == whole.finish_reason
    assert chunks[-1].usage is not None
    assert by_name[job].usage is not None
    assert chunks[-1].usage.completion_tokens == by_name[job].usage.completion_tokens


def test_completions_equal_the_samples_of_the_tinker_sdk(
    address: str, token: str, job: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=token)
    prompt = [5, 6, 7, 8]
    path = json.loads(server.dn("train", "checkpoints", job, "--json").out)[-1]["path"]
    monkeypatch.setenv("TINKER_BASE_URL", f"http://127.0.0.1:{server.ports[1]}")
    monkeypatch.setenv("TINKER_API_KEY", next(server.data.rglob("engine.key")).read_text().strip())
    sampler = tinker.ServiceClient().create_sampling_client(path).result()
    expected = sampler.sample(
        tinker.types.ModelInput.from_ints(prompt),
        2,
        tinker.types.SamplingParams(max_tokens=16, seed=11, temperature=1.0),
    ).result()

    found = client.completions.create(
        model=path, prompt=prompt, n=2, max_tokens=16, seed=11, temperature=1.0, logprobs=1
    )

    for choice, sequence in zip(found.choices, expected.sequences, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(sequence.logprobs, abs=1e-5)


async def test_async_clients_of_both_makers_stream_and_take_tools(
    address: str, token: str, job: str
) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=token) as one,
        anthropic.AsyncAnthropic(base_url=address, api_key=token) as other,
    ):
        chats = await asyncio.gather(
            *(
                one.chat.completions.create(
                    model=job,
                    messages=HELLO,
                    max_tokens=8,
                    tools=[{"type": "function", "function": TOOL}],
                )
                for _ in range(4)
            )
        )
        tool: Any = {"name": "f", "input_schema": TOOL["parameters"]}
        message = await other.messages.create(model=job, messages=HELLO, max_tokens=8, tools=[tool])
        counted = await other.messages.count_tokens(model=job, messages=HELLO, tools=[tool])
        async with other.messages.stream(model=job, messages=HELLO, max_tokens=8) as stream:
            texts = [text async for text in stream.text_stream]
            whole = await stream.get_final_message()

    assert [chat.choices[0].finish_reason in ("stop", "length") for chat in chats] == [True] * 4
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert counted.input_tokens > 10
    assert "".join(texts) == "".join(b.text for b in whole.content if b.type == "text")
    assert whole.usage.output_tokens <= 8


def test_errors_have_the_type_that_each_client_raises(address: str, token: str) -> None:
    one = openai.OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0)
    other = anthropic.Anthropic(base_url=address, api_key="wrong", max_retries=0)

    with pytest.raises(openai.NotFoundError, match="Did you mean one of: Qwen/Qwen3"):
        one.chat.completions.create(model="Qwen/Qwen3-8", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="context is"):
        one.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=900_000)
    with pytest.raises(anthropic.AuthenticationError, match="API token is not valid"):
        other.messages.create(model=MODEL, messages=HELLO, max_tokens=5)


def test_a_job_chats_in_the_terminal(server: Server, job: str) -> None:
    said = server.dn("train", "chat", job, "--message", "3 + 3?", "--max-tokens", "8", "--json")

    assert said.code == 0, said
    assert json.loads(said.out)["usage"]["sampled_tokens"] <= 8
    assert Path(server.log).exists()
