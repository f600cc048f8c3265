"""Serving weights: the real engine, the real SDK, a tiny model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tinker
from dreadnode_runtime.commands.serve import serve
from tinker import types
from transformers import AutoTokenizer

MODEL = "Qwen/Qwen3-8B"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def connected(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")


@pytest.fixture
def weights(connected: None) -> dict[str, str]:
    """Untrained weights, saved in both ways."""
    service = tinker.ServiceClient()
    client = service.create_lora_training_client(base_model=MODEL, rank=4, seed=1).result()
    return {
        "training": client.save_state("step-000001").result().path,
        "sampler": client.save_weights_for_sampler("final").result().path,
    }


@pytest.fixture
def served(tiny_model: Path) -> dict[str, Any]:
    return {
        "model": MODEL,
        "rehearsal": False,
        "tokenizer": str(tiny_model),
        "base_model": MODEL,
        "context": 256,
        "streams": True,
        "system_prompt": "Be brief.",
    }


def request(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"id": name, "messages": HELLO, "max_tokens": 8, "seed": 3, **changes}


async def lines(sent: Sequence[dict[str, Any]], last: asyncio.Event) -> AsyncIterator[str]:
    for each in sent:
        yield json.dumps(each) + "\n"
    await last.wait()


async def responses(*sent: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines for each request by its id, the first line under an empty name."""
    open_requests = {each["id"] for each in sent[1:] if "id" in each}
    open_requests -= {each.get("cancel") for each in sent}
    ended = asyncio.Event()
    found: dict[str, list[dict[str, Any]]] = {}

    def emit(line: str) -> None:
        fields = json.loads(line)
        name = fields.pop("id", "")
        found.setdefault(name, []).append(fields)
        if fields.keys() & {"result", "error"}:
            open_requests.discard(name)
        if not open_requests or (not name and not fields["ok"]):
            ended.set()

    async with asyncio.timeout(120):
        await serve(lines(sent, ended), emit)
    return found


async def test_weights_saved_to_train_on_answer_as_those_saved_to_sample_from(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    sent = [request("a"), request("b", seed=4), request("c")]

    by_kind = {
        kind: await responses({**served, "checkpoint": path}, *sent)
        for kind, path in weights.items()
    }

    found = by_kind["sampler"]
    assert found.pop("") == [{"ok": True, "renderer": "qwen3", "notes": []}]
    results = {name: lines[-1]["result"]["choices"] for name, lines in found.items()}
    assert results == {name: by_kind["training"][name][-1]["result"]["choices"] for name in results}
    assert results["a"] == results["c"] != results["b"]
    assert set(results["a"][0]["message"]) == {"role", "content", "reasoning", "tool_calls"}


async def test_completions_equal_the_samples_of_the_sdk_token_for_token(
    weights: dict[str, str], served: dict[str, Any], tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = tokenizer("Hello there")["input_ids"]
    client = tinker.ServiceClient().create_sampling_client(weights["sampler"])
    expected = await client.sample(
        types.ModelInput.from_ints(prompt), 2, types.SamplingParams(max_tokens=20, seed=9)
    )
    asked = {"messages": None, "prompt": prompt, "n": 2, "max_tokens": 20, "seed": 9, "logprobs": 2}

    found = await responses(
        {**served, "checkpoint": weights["sampler"]},
        request("whole", **asked),
        request("streamed", **asked, stream=True),
    )

    for name in ("whole", "streamed"):
        choices = found[name][-1]["result"]["choices"]
        for choice, sequence in zip(choices, expected.sequences, strict=True):
            sampled = [entry["logprob"] for entry in choice["logprobs"]]
            assert sampled == pytest.approx(sequence.logprobs, abs=1e-5)
            assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]] == [2] * len(
                sampled
            )
    texts = ["", ""]
    for line in found["streamed"][:-1]:
        texts[line["part"]["index"]] += line["part"]["content"]
    assert texts == [each["text"] for each in found["streamed"][-1]["result"]["choices"]]
    assert len(found["streamed"]) > 4


async def test_a_base_model_answers_without_an_adapter(served: dict[str, Any]) -> None:
    found = await responses(served, request("a"), request("b", stream=True))

    assert found["a"][-1]["result"]["choices"] == found["b"][-1]["result"]["choices"]


async def test_a_completion_names_the_variant_that_writes_it_and_why(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    twin = {**served, "checkpoint": weights["sampler"], "renderer": "qwen3_disable_thinking"}

    result = (await responses(twin, request("a")))["a"][-1]["result"]

    assert result["renderer"] == "qwen3_disable_thinking"
    assert result["format_notes"] == [
        "The weights were trained with qwen3_disable_thinking, which replaces qwen3"
    ]


async def test_the_system_prompt_of_the_job_goes_in_front(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    served["checkpoint"] = weights["sampler"]
    count = request(only_count=True)

    prompted = await responses(served, count)
    plain = await responses({**served, "system_prompt": None}, count)

    tokens = [each["a"][-1]["result"]["usage"]["prompt_tokens"] for each in (prompted, plain)]
    assert tokens[0] > tokens[1]


async def test_a_request_that_does_not_fit_or_cannot_be_rendered_is_refused_alone(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    served["checkpoint"] = weights["sampler"]

    found = await responses(
        served,
        request("long", max_tokens=250),
        request("wrong", messages=[{"role": "assistant", "content": "Hi"}]),
        request("fits"),
    )

    errors = {name: found[name] for name in ("long", "wrong")}
    assert [each[0]["fault"] for each in errors.values()] == ["request", "request"]
    assert "too short for a completion of 250 tokens" in errors["long"][0]["error"]
    assert "begins with the assistant" in errors["wrong"][0]["error"]
    assert "result" in found["fits"][-1]


async def test_a_cancelled_request_ends_and_the_others_continue(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    served["checkpoint"] = weights["sampler"]
    endless = request("endless", messages=None, prompt="a", max_tokens=200, n=4, stream=True)

    found = await responses(served, endless, {"cancel": "endless"}, request("b"), request("c"))

    assert "result" in found["b"][-1]
    assert "result" in found["c"][-1]
    assert not [line for line in found.get("endless", []) if "result" in line]


async def test_the_string_that_ended_a_completion_is_named(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    served["checkpoint"] = weights["sampler"]
    free = {"messages": None, "prompt": "a", "max_tokens": 40, "seed": 1}
    text = (await responses(served, request(**free)))["a"][-1]["result"]["choices"][0]["text"]

    found = await responses(served, request(**free, stop=["\n\n\n\n", text[5:7]]))

    choice = found["a"][-1]["result"]["choices"][0]
    assert choice["stop_sequence"] == text[5:7]
    assert choice["text"] == text[: text.find(text[5:7])]


async def test_weights_that_the_engine_does_not_have_are_the_requests_fault(
    served: dict[str, Any],
) -> None:
    path = "tinker://gone:train:0/sampler_weights/final"

    found = await responses({**served, "checkpoint": path}, request())

    (refused,) = found[""]
    assert (refused["ok"], refused["fault"]) == (False, "request")
    assert refused["error"].startswith("The engine refused the work")


def test_the_process_answers_lines_and_ends_with_its_stdin(
    weights: dict[str, str], served: dict[str, Any]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dreadnode_runtime", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for each in ({**served, "checkpoint": weights["sampler"]}, request()):
        process.stdin.write(json.dumps(each) + "\n")
    process.stdin.flush()

    found = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.stdin.close()

    assert process.wait(120) == 0
    assert found[0]["ok"] is True
    assert "result" in found[1]
