"""The engine's OpenAI endpoint compared with the bare sampling client, on one engine in one run.

1, 8 and 32 clients sample the same prompts with the same seeds: through the official tinker SDK,
which is the least that a client of this engine can do; through `POST /v1/chat/completions`; and
streamed. They take turns; the median of the ratios counts. The time to the first token is that of
the streamed requests. `transformers serve` takes part with the same weights, if it starts here.
`BENCH_ENDPOINT_CLIENTS`, `_TOKENS` and `_ROUNDS` set the length.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import tinker
from dreadnode_engine.base_models.discovery import STAND_IN_ID
from engine_beside import KEY, serving, use

CLIENTS = tuple(map(int, os.environ.get("BENCH_ENDPOINT_CLIENTS", "1 8 32").split()))
SEQUENTIAL = 8
"""The most clients of `transformers serve`, which answers one after the other on a CPU."""
TOKENS = int(os.environ.get("BENCH_ENDPOINT_TOKENS", "48"))
ROUNDS = int(os.environ.get("BENCH_ENDPOINT_ROUNDS", "2"))
READY_SECONDS = 60.0
OTHER = "transformers serve"


@dataclass
class Figures:
    """What one way of sampling gave for one number of clients.

    Attributes:
        rates: Tokens per second of each round.
        first: Seconds to the first token of each request.
    """

    rates: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


Request = Callable[[int, Figures], Awaitable[int]]
"""Samples with a seed, and returns the number of tokens."""


def main() -> int:
    """Print the rates of each way, and their ratios to the bare client."""
    with tempfile.TemporaryDirectory() as work, serving(Path(work)) as url:
        use(url)
        folder = weights_folder(url)
        with transformers_serve(folder) as other:
            asyncio.run(measure(url, folder, other))
    return 0


async def measure(url: str, folder: Path, other: str | None) -> None:
    """Let the ways take turns, and print their figures."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    ways: dict[str, Request] = {
        "tinker": await bare(folder),
        "whole": whole(client, STAND_IN_ID),
        "streamed": streamed(client, STAND_IN_ID),
    }
    if other is None:
        print("`transformers serve` does not start here; it is left out")
    else:
        theirs = openai.AsyncOpenAI(base_url=other, api_key="none", max_retries=0)
        ways[OTHER] = streamed(theirs, str(folder))
    for way in ways.values():
        await way(0, Figures())  # The first request starts processes and loads weights.
    for clients in CLIENTS:
        if clients > SEQUENTIAL:
            ways.pop(OTHER, None)
        found = {name: Figures() for name in ways}
        for number in range(ROUNDS):
            for name, way in ways.items():
                await one_round(way, found[name], clients, number * max(CLIENTS))
        show(clients, found)


async def one_round(way: Request, figures: Figures, clients: int, seed: int) -> None:
    """Let CLIENTS sample at the same time, and add the rate to FIGURES."""
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(way(seed + each, figures) for each in range(clients))))
    figures.rates.append(tokens / (time.perf_counter() - began))


def show(clients: int, found: dict[str, Figures]) -> None:
    """Print a line for each way."""
    for name, figures in found.items():
        pairs = zip(figures.rates, found["tinker"].rates, strict=True)
        ratio = statistics.median(ours / bare for ours, bare in pairs)
        first = ""
        if figures.first:
            first = f", first token after {statistics.median(figures.first):.3f} s"
        print(
            f"{clients:>3} clients, {name:>18}: {statistics.median(figures.rates):7.1f} tokens/s, "
            f"{ratio:.2f} times tinker's{first}",
            flush=True,
        )


def question(seed: int) -> list[dict[str, str]]:
    """Return a conversation, another one for each client."""
    return [{"role": "user", "content": f"Tell me a long story about the number {seed % 97}."}]


def weights_folder(url: str) -> Path:
    """Return the folder of the stand-in's weights and tokenizer."""
    found = httpx2.get(
        f"{url}/api/v1/get_server_capabilities", headers={"X-API-Key": KEY}, timeout=60
    )
    models = {model["model_name"]: model for model in found.json()["supported_models"]}
    return Path(models[STAND_IN_ID]["tokenizer_id"])


async def bare(folder: Path) -> Request:
    """Sample through the tinker SDK, with prompts that are rendered beforehand."""
    from dreadnode_runtime.data.load_rendering import load_rendering
    from dreadnode_runtime.data.normal_form import with_system_prompt
    from dreadnode_runtime.data.reading import read_conversation

    rendering = load_rendering(STAND_IN_ID, rehearsal=True, tokenizer=str(folder))
    service = tinker.ServiceClient()
    sampler = await service.create_sampling_client_async(base_model=STAND_IN_ID)
    stops: Any = list(rendering.stops(()))

    def prompt(seed: int) -> tinker.types.ModelInput:
        said = with_system_prompt(read_conversation({"messages": question(seed)}), None)
        return tinker.types.ModelInput.from_ints(rendering.prompt(said))

    prompts = {seed: prompt(seed) for seed in range(97)}

    async def request(seed: int, figures: Figures) -> int:
        sampling = tinker.types.SamplingParams(
            max_tokens=TOKENS, seed=seed, temperature=1.0, stop=stops
        )
        found = await sampler.sample_async(prompts[seed % 97], 1, sampling)
        return len(found.sequences[0].tokens)

    return request


def whole(client: openai.AsyncOpenAI, model: str) -> Request:
    """Sample through the endpoint of CLIENT, in one piece."""

    async def request(seed: int, figures: Figures) -> int:
        messages: Any = question(seed)
        found = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=TOKENS, seed=seed, temperature=1.0
        )
        assert found.usage is not None
        return found.usage.completion_tokens

    return request


def streamed(client: openai.AsyncOpenAI, model: str) -> Request:
    """Sample through the endpoint of CLIENT, token by token."""

    async def request(seed: int, figures: Figures) -> int:
        began, tokens, first = time.perf_counter(), 0, 0.0
        messages: Any = question(seed)
        stream = await client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=TOKENS,
            seed=seed,
            temperature=1.0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if not first and any(choice.delta.content for choice in chunk.choices):
                first = time.perf_counter() - began
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        figures.first.append(first)
        return tokens

    return request


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str | None]:
    """Yield the address of `transformers serve` on the weights in FOLDER; None if it fails."""
    program = Path(sys.executable).with_name("transformers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            yield url if answers(f"{url}/models", process) else None
        finally:
            process.terminate()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Return whether URL answers before PROCESS ends."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx2.get(url)
        except httpx2.HTTPError:
            time.sleep(0.2)
        else:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
