"""Faults between the official SDK and the engine cost time, and change nothing else."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.tinker_policy import TinkerPolicy
from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
from dreadnode_runtime.backend.trainer import Adapter, Optimizer
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import TryAgain
from dreadnode_runtime.jobs.config import read_config
from dreadnode_runtime.jobs.outcome import Outcome
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.loop import RlPlan, train
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Rollouts, sampling_params

FAULTS = ("429", "drop", "500", "lose", "503", "slow", "408", "lose", "502", "drop")
EVERY = 4
"""Of so many requests one meets the next fault."""
STEPS = 12


class Proxy:
    """Stands between SDK and engine, and spoils every so many requests in another way.

    `drop` closes the connection before the engine hears of the request, and `lose` after it has
    done what it was asked: the SDK cannot tell the two apart.
    """

    def __init__(self, engine: str, faults: tuple[str, ...], every: int) -> None:
        self._engine = engine
        self._faults = cycle(faults)
        self._every = every
        self._requests = 0
        self.met: Counter[str] = Counter()
        self.polls_get: tuple[int, str, bytes] | None = None
        self.polls: list[float] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with httpx2.AsyncClient(timeout=90) as self._http:
            server = await asyncio.start_server(self._serve, "127.0.0.1")
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, httpx2.HTTPError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.pop("content-length", 0)))
        fault = self._next_fault()
        if fault == "drop":
            return False
        if path.endswith("/retrieve_future") and self.polls_get is not None:
            self.polls.append(time.monotonic())
            await send(writer, *self.polls_get)
            return True
        if fault.isdigit():
            await send(writer, int(fault), "application/json", b'{"detail": "not now"}')
            return True
        if fault == "slow":
            await asyncio.sleep(0.5)
        del headers["host"]
        answer = await self._http.request(
            method, self._engine + path, headers=headers, content=body
        )
        if fault == "lose":
            return False
        await send(
            writer, answer.status_code, answer.headers.get("content-type", ""), answer.content
        )
        return True

    def _next_fault(self) -> str:
        self._requests += 1
        if self._requests % self._every:
            return ""
        fault = next(self._faults)
        self.met[fault] += 1
        return fault


async def send(writer: asyncio.StreamWriter, status: int, kind: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


@pytest.fixture
def losses(engine: Any, example: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take some steps through the official SDK at an address, and return every loss."""
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    batch = [[example(row, length=12 + row) for row in range(1, 5)]]

    async def take(url: str) -> list[list[float]]:
        monkeypatch.setenv("TINKER_BASE_URL", url)
        async with tinker_trainer(
            base_model="Qwen/Qwen3-8B",
            adapter=Adapter(rank=4, seed=3),
            optimizer=Optimizer(),
            resume=None,
            metadata={},
        ) as trainer:
            submitted = [asyncio.ensure_future(trainer.submit(batch, 1e-2)) for _ in range(STEPS)]
            saved = asyncio.ensure_future(trainer.save("step-000012"))
            found = [await step for step in submitted]
            assert (await saved).path.endswith("/weights/step-000012")
            return found

    return take


@pytest.mark.parametrize(("faults", "every"), [(FAULTS, EVERY), (("402",), 25)])
async def test_a_run_over_a_bad_network_ends_with_the_same_weights(
    losses: Any, engine: Any, faults: tuple[str, ...], every: int
) -> None:
    expected = await losses(engine.url)
    proxy = Proxy(engine.url, faults, every)
    async with proxy.running() as url:
        found = await losses(url)

    assert found == expected
    assert set(proxy.met) == set(faults)


class LowerCase(Recipe):
    name = "lower_case"

    async def score(self, completion: Completion) -> Score:
        return Score(sum(c.islower() for c in completion.text) / max(len(completion.text), 1))


class Quiet:
    def report(self, *_: Any, **__: Any) -> None: ...
    def phase(self, *_: Any) -> None: ...
    def log(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture
def rewards(engine: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw and learn for some steps at an address, and return what was earned and measured."""
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    settings = read_config(
        RlConfig,
        complete(
            "rl",
            {
                "max_sequence_length": 32_768,
                "algorithm": "ppo",
                "prompt_dataset_ref": {"name": "say", "version": "1"},
                "reward_recipe": {"name": "lower_case"},
                "max_new_tokens": 8,
                "num_rollouts": 2,
                "batch_size": 1,
                "group_size": 4,
                "steps": 3,
                "learning_rate": 1e-2,
            },
        ),
    )
    rendering = load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))
    said = [Conversation([{"role": "user", "content": f"say {n}"}]) for n in range(4)]
    prompts = [Prompt(each, row, tokens=rendering.prompt(each)) for row, each in enumerate(said, 1)]

    async def submit_update(url: str) -> dict[str, list[float]]:
        monkeypatch.setenv("TINKER_BASE_URL", url)
        history, quiet = RlHistory(), Quiet()
        async with tinker_trainer(
            base_model="Qwen/Qwen3-8B",
            adapter=Adapter(rank=4, seed=3),
            optimizer=Optimizer(),
            resume=None,
            metadata={},
            kind=TinkerPolicy,
        ) as policy:
            rollouts = Rollouts(rendering, LowerCase(), sampling_params(rendering, settings), 128)
            plan = RlPlan(settings, prompts, settings.total_steps(len(prompts)))
            await train(plan, policy, rollouts, quiet, Stop(), history, Outcome())  # type: ignore[arg-type]
        metrics = history.final_metrics()
        names = ("train/reward", "train/entropy", "train/kl_sampler_trainer", "tokens/sampled")
        return {name: metrics[name] for name in names}

    return submit_update


async def test_rl_over_a_bad_network_ends_with_the_same_metrics(rewards: Any, engine: Any) -> None:
    expected = await rewards(engine.url)
    faults = ("lose", "500", "drop", "429", "slow")
    proxy = Proxy(engine.url, faults, EVERY)
    async with proxy.running() as url:
        found = await rewards(url)

    for name, series in expected.items():
        # Which requests share a batch is another matter of time, and moves the last digits.
        assert found[name] == pytest.approx(series, rel=1e-3, abs=1e-5), name
    assert set(proxy.met) == set(faults)


async def test_an_engine_that_stays_unreachable_ends_the_attempt_as_an_infrastructure_failure(
    make_engine: Any, example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setattr(
        "dreadnode_runtime.backend.availability.while_available.__defaults__", (0.1,)
    )
    monkeypatch.setattr("dreadnode_runtime.backend.tinker_trainer.CLOSE_SECONDS", 0.5)
    batch = [[example(row, length=12 + row) for row in range(1, 5)]]

    async with tinker_trainer(
        base_model="Qwen/Qwen3-8B",
        adapter=Adapter(rank=4, seed=3),
        optimizer=Optimizer(),
        resume=None,
        metadata={},
    ) as trainer:
        trainer._max_outage = 1.0
        await trainer.submit(batch, 1e-2)
        engine.kill()

        async with asyncio.timeout(60):
            with pytest.raises(TryAgain, match="The engine was unreachable for 1 s"):
                await trainer.submit(batch, 1e-2)


JSON = "application/json"
HTML = "text/html"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((401, JSON, b'{"detail": "unknown key"}'), "responded with 401: unknown key$"),
        ((403, JSON, b'{"detail": "not yours"}'), "responded with 403: not yours$"),
        ((404, JSON, b'{"detail": "no such result"}'), "responded with 404: no such result$"),
        ((410, JSON, b'{"detail": "expired"}'), "responded with 410: expired$"),
        ((404, HTML, b"<html>not here</html>"), "responded with 404$"),
        ((200, HTML, b"<html>sign in</html>"), "the response is not one of an engine$"),
        ((200, JSON, b"{broken"), "the response is not one of an engine$"),
    ],
)
async def test_a_result_that_cannot_be_fetched_is_one_sentence_and_another_attempt(
    engine: Any,
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
    response: tuple[int, str, bytes],
    message: str,
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    proxy = Proxy(engine.url, ("",), 10**9)
    async with proxy.running() as url:
        monkeypatch.setenv("TINKER_BASE_URL", url)
        async with trainer_at() as trainer:
            proxy.polls_get = response
            with pytest.raises(
                TryAgain, match="The engine's result could not be fetched: .*" + message
            ):
                await trainer.submit([[example(1)]], 1e-2)


async def test_a_gateway_without_its_engine_is_polled_with_pauses(
    engine: Any, example: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    proxy = Proxy(engine.url, ("",), 10**9)
    async with proxy.running() as url:
        monkeypatch.setenv("TINKER_BASE_URL", url)
        async with trainer_at() as trainer:
            proxy.polls_get = (502, HTML, b"<html>bad gateway</html>")
            step = asyncio.ensure_future(trainer.submit([[example(1)]], 1e-2))
            await eventually(lambda: len(proxy.polls) >= 8)
            proxy.polls_get = None

            assert await step
    # Two results are pending, and each waits 0.25 s, 0.5 s and 1 s, a quarter more or less.
    assert proxy.polls[7] - proxy.polls[0] > 1


def trainer_at() -> Any:
    """Open a trainer at the address in the environment."""
    return tinker_trainer(
        base_model="Qwen/Qwen3-8B",
        adapter=Adapter(rank=4, seed=3),
        optimizer=Optimizer(),
        resume=None,
        metadata={},
    )
