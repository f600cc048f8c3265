"""Talking with weights: the real engine, the real SDK, a tiny model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tinker
from dreadnode_runtime.commands.chat import ChatRequest, ChatSetup, serve

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
def opening(tiny_model: Path) -> dict[str, Any]:
    return {
        "model": MODEL,
        "rehearsal": False,
        "tokenizer": str(tiny_model),
        "context": 256,
        "system_prompt": "Be brief.",
    }


def question(**changes: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 8, "temperature": 1.0, "seed": 3, **changes}


async def lines(said: Sequence[dict[str, Any]]) -> AsyncIterator[str]:
    for each in said:
        yield json.dumps(each) + "\n"


async def answers(*said: dict[str, Any]) -> list[dict[str, Any]]:
    """What is answered to SAID, the opening first."""
    told: list[dict[str, Any]] = []
    ChatSetup.model_validate(said[0])
    for each in said[1:]:
        ChatRequest.model_validate(each)
    async with asyncio.timeout(120):
        await serve(lines(said), lambda line: told.append(json.loads(line)))
    return told


async def test_training_and_sampler_weights_give_the_same_completion(
    weights: dict[str, str], opening: dict[str, Any]
) -> None:
    asked = [question(), question(seed=4), question()]

    by_kind = {
        kind: await answers({**opening, "checkpoint": path}, *asked)
        for kind, path in weights.items()
    }

    opened, first, other, again = by_kind["sampler"]
    assert opened == {"ok": True, "renderer": "qwen3"}
    assert by_kind["training"] == by_kind["sampler"]
    assert first == again
    assert first["message"] != other["message"]
    assert set(first["message"]) == {"role", "content", "reasoning", "tool_calls"}
    assert first["usage"]["sampled_tokens"] <= 8


async def test_the_jobs_system_prompt_comes_first(
    weights: dict[str, str], opening: dict[str, Any]
) -> None:
    opening["checkpoint"] = weights["sampler"]

    _, prompted = await answers(opening, question())
    _, plain = await answers({**opening, "system_prompt": None}, question())

    assert prompted["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


async def test_a_conversation_that_leaves_no_room_is_refused_and_the_next_is_completed(
    weights: dict[str, str], opening: dict[str, Any]
) -> None:
    opening["checkpoint"] = weights["sampler"]

    _, long, short = await answers(opening, question(max_tokens=250), question())

    assert (long["ok"], long["fault"]) == (False, "request")
    assert "too short for a completion of 250 tokens" in long["error"]
    assert short["ok"]


async def test_missing_weights_are_reported_as_a_refused_request(
    opening: dict[str, Any],
) -> None:
    path = "tinker://gone:train:0/sampler_weights/final"

    (refused,) = await answers({**opening, "checkpoint": path}, question())

    assert (refused["ok"], refused["fault"]) == (False, "request")
    assert refused["error"].startswith("The engine refused the work")


def test_the_process_responds_line_by_line_and_ends_with_its_stdin(
    weights: dict[str, str], opening: dict[str, Any]
) -> None:
    said = [{**opening, "checkpoint": weights["sampler"]}, question()]

    ended = subprocess.run(
        [sys.executable, "-m", "dreadnode_runtime", "chat"],
        input="".join(json.dumps(each) + "\n" for each in said),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert [json.loads(line)["ok"] for line in ended.stdout.splitlines()] == [True, True]
