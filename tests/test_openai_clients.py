"""The OpenAI and Anthropic clients, unmodified, against a whole server and against its engine."""

import asyncio
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import tinker
import transformers
import yaml

from .server import MODEL, Server
from .test_journey import submit, write_rows

HELLO: Any = [{"role": "user", "content": "3 + 3?"}]
TOOL: Any = {"name": "f", "parameters": {"type": "object", "properties": {}}}
"""A short one: the tiny model's context holds few of its tokens, which are bytes."""
SAMPLING: Any = {"max_tokens": 12, "seed": 5, "temperature": 1.0}


@dataclass(frozen=True)
class Endpoint:
    """One of the two addresses that serve the protocols.

    Attributes:
        names: Names of the same weights, of which the first is their path.
    """

    url: str
    key: str
    names: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path of the weights."""
        return self.names[0]

    def openai(self, **options: Any) -> openai.OpenAI:
        """Return the blocking client of OpenAI."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        """Return the blocking client of Anthropic."""
        key = options.pop("api_key", self.key)
        return anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0, **options)


@pytest.fixture(scope="module")
def job(server: Server) -> str:
    rows = write_rows(server.folder / "served.jsonl")
    assert server.dn("dataset", "push", str(rows), "served@1.0.0").code == 0
    made = submit(server, "--dataset", "served@1.0.0", "--steps", "1", "--name", "sums", "--wait")
    return str(made["id"])


@pytest.fixture(scope="module")
def path(server: Server, job: str) -> str:
    return str(json.loads(server.dn("train", "checkpoints", job, "--json").out)[-1]["path"])


@pytest.fixture(scope="module")
def engine_key(server: Server) -> str:
    return next(server.data.rglob("engine.key")).read_text().strip()


@pytest.fixture(scope="module", params=["api", "engine"])
def endpoint(
    request: pytest.FixtureRequest, server: Server, job: str, path: str, engine_key: str
) -> Endpoint:
    url = "http://127.0.0.1:{}"
    if request.param == "engine":
        return Endpoint(url.format(server.ports[1]), engine_key, (path, f"{MODEL};{path}"))
    profile = yaml.safe_load((server.config / "config.yaml").read_text())["servers"]
    token = next(iter(profile.values()))["api_key"]
    names = (path, job, "sums", f"{job}@final", f"{MODEL};{path}")
    return Endpoint(url.format(server.ports[0]), token, names)


@pytest.fixture(scope="module")
def sampler(server: Server, path: str, engine_key: str) -> Iterator[tinker.SamplingClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", f"http://127.0.0.1:{server.ports[1]}")
        patch.setenv("TINKER_API_KEY", engine_key)
        yield tinker.ServiceClient().create_sampling_client(path).result()


def test_the_openai_client_lists_models_and_reads_whole_and_streamed_messages(
    endpoint: Endpoint,
) -> None:
    client = endpoint.openai()

    listed = [model.id for model in client.models.list()]
    whole = [
        client.chat.completions.create(model=name, messages=HELLO, **SAMPLING)
        for name in (*endpoint.names, MODEL)
    ]
    stream = client.chat.completions.create(
        model=endpoint.path,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        **SAMPLING,
    )
    chunks = list(stream)

    assert MODEL in listed
    assert set(listed) & set(endpoint.names)
    base = whole.pop()
    assert base.system_fingerprint is None
    assert {each.system_fingerprint for each in whole} == {endpoint.path}
    first = whole[0].choices[0]
    assert all(each.choices[0].message == first.message for each in whole)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == (first.message.content or "")
    ended = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1]
    assert ended == first.finish_reason
    assert chunks[-1].usage is not None
    assert whole[0].usage is not None
    assert chunks[-1].usage.completion_tokens == whole[0].usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_completions_equal_the_samples_of_the_tinker_sdk_token_for_token(
    endpoint: Endpoint, sampler: tinker.SamplingClient, tiny_model: Path, stream: bool
) -> None:
    prompt = [5, 6, 7, 8]
    sampling = {"max_tokens": 16, "seed": 11, "temperature": 1.0}
    given = tinker.types.ModelInput.from_ints(prompt)
    expected = sampler.sample(given, 2, tinker.types.SamplingParams(**sampling)).result()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)

    asked: Any = {"model": endpoint.path, "prompt": prompt, "n": 2, "logprobs": 1, **sampling}
    found = endpoint.openai().completions.create(stream=stream, **asked)
    chunks: list[Any] = list(found) if stream else [found]
    choices = [each for chunk in chunks for each in chunk.choices if each.logprobs is not None]

    for choice, sequence in zip(choices, expected.sequences, strict=True):
        assert choice.logprobs.tokens == [tokenizer.decode([each]) for each in sequence.tokens]
        assert choice.logprobs.token_logprobs == pytest.approx(sequence.logprobs, abs=1e-5)


async def test_async_clients_of_both_makers_stream_and_take_tools(endpoint: Endpoint) -> None:
    name = endpoint.names[-1]
    async with (
        openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.key) as one,
        anthropic.AsyncAnthropic(base_url=endpoint.url, api_key=endpoint.key) as other,
    ):
        chats = await asyncio.gather(
            *(
                one.chat.completions.create(
                    model=name,
                    messages=HELLO,
                    max_tokens=8,
                    tools=[{"type": "function", "function": TOOL}],
                )
                for _ in range(4)
            )
        )
        tool: Any = {"name": "f", "input_schema": TOOL["parameters"]}
        message = await other.messages.create(
            model=name, messages=HELLO, max_tokens=8, tools=[tool]
        )
        counted = await other.messages.count_tokens(model=name, messages=HELLO, tools=[tool])
        async with other.messages.stream(model=name, messages=HELLO, max_tokens=8) as stream:
            texts = [text async for text in stream.text_stream]
            whole = await stream.get_final_message()

    assert [chat.choices[0].finish_reason in ("stop", "length") for chat in chats] == [True] * 4
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert counted.input_tokens > 10
    assert "".join(texts) == "".join(b.text for b in whole.content if b.type == "text")
    assert whole.usage.output_tokens <= 8


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": MODEL.removesuffix("B")}, MODEL),
        ({"model": "tinker://nothing/sampler_weights/x"}, "checkpoint `tinker://nothing/"),
        ({"max_tokens": 900_000}, "context is"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "context is"),
        ({"n": 10_000}, "`n`: "),
        ({"stop": ""}, "`stop"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tool"),
        ({"tools": [{}]}, "a tool has no name"),
    ],
)
def test_bad_input_is_one_sentence_in_the_shape_of_the_protocol(
    endpoint: Endpoint, wrong: dict[str, Any], sentence: str
) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 4, **wrong}

    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        endpoint.openai().chat.completions.create(**asked)

    body: Any = refused.value.body
    assert sentence in body["message"]
    assert body["type"] == "invalid_request_error"


def test_errors_have_the_type_that_each_client_raises(endpoint: Endpoint) -> None:
    asked: Any = {"model": "Qwen/Qwen3-8", "messages": HELLO, "max_tokens": 5}

    with pytest.raises(anthropic.AuthenticationError):
        endpoint.anthropic(api_key="tml-wrong-key").messages.create(**asked)
    with pytest.raises(openai.AuthenticationError):
        endpoint.openai().with_options(api_key="wrong").chat.completions.create(**asked)
    with pytest.raises(anthropic.NotFoundError, match=f"Did you mean .*{MODEL}"):
        endpoint.anthropic().messages.create(**asked)


def test_a_client_that_disconnects_frees_its_rows_and_a_deaf_one_holds_up_nobody(
    endpoint: Endpoint, server: Server
) -> None:
    asked = {"model": MODEL, "prompt": [5, 6], "max_tokens": 400, "n": 128, "stream": True}
    host, port = endpoint.url.removeprefix("http://").split(":")
    body = json.dumps(asked)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {endpoint.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    authorization = {"Authorization": f"Bearer {endpoint.key}"}
    with socket.create_connection((host, int(port))) as deaf:
        deaf.sendall((head + body).encode())
        found = endpoint.openai().completions.create(model=MODEL, prompt=[7], max_tokens=4)
    began = time.time()
    with httpx2.stream(
        "POST", f"{endpoint.url}/v1/completions", json=asked, headers=authorization, timeout=60
    ) as hasty:
        next(hasty.iter_lines())

    assert found.usage is not None
    assert found.usage.completion_tokens <= 4
    journal = sqlite3.connect(next(server.data.rglob("engine.sqlite3")))
    query = "SELECT state FROM requests WHERE kind = 'sample' AND created > ?"
    while (states := journal.execute(query, (began,)).fetchall()) == [("queued",)]:
        time.sleep(0.05)
    assert states == [("dropped",)]


def test_a_job_chats_in_the_terminal(server: Server, job: str) -> None:
    said = server.dn("train", "chat", job, "--message", "3 + 3?", "--max-tokens", "8", "--json")

    assert said.code == 0, said
    assert json.loads(said.out)["usage"]["sampled_tokens"] <= 8
    assert Path(server.log).exists()
