"""The token counts of a job equal what the engine itself was sent, and what it sent back."""

import asyncio
import json
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.usage import FILE, KINDS, TokenMeter
from dreadnode_runtime.commands.check import check
from dreadnode_runtime.commands.train import run_job
from dreadnode_runtime.control.api import Settings, connect
from dreadnode_runtime.control.events import Reporter, Stop
from tinker import types

ROWS = [{"prompt": f"{n}+1?" * (1 + n % 3), "answer": f"{n + 1}"} for n in range(11)]
# Of each group some completions must differ, however the timing of asynchronous training has mixed
# the weights: a group of equal rewards is not trained on.
REWARD = {
    "name": "weighted_sum_v1",
    "params": {
        "terms": [
            {"weight": 2.0**-n, "reward": {"name": "contains_v1", "params": {"needle": letter}}}
            for n, letter in enumerate("aeinorst")
        ]
    },
}
RL = {
    "algorithm": "importance_sampling",
    "prompt_dataset_ref": {"name": "talk", "version": "1.0.0"},
    "reward_recipe": REWARD,
    "max_new_tokens": 6,
    "max_sequence_length": 256,
    "num_rollouts": 4,
    "batch_size": 2,
    "group_size": 3,
    "steps": 3,
    "lora_rank": 4,
    "temperature": 1.0,
}
EVALUATED = {"eval_dataset_ref": {"name": "exam", "version": "1.0.0"}, "eval_interval": 2}
SHAPES = [
    ("sft", {"batch_size": 4, "epochs": 2}),
    ("sft", {"batch_size": 2, "gradient_accumulation_steps": 3, "epochs": 2, **EVALUATED}),
    ("rl", RL),
    ("rl", {**RL, "execution_mode": "fully_async", "max_steps_off_policy": 2, **EVALUATED}),
]

Run = Callable[..., Awaitable[dict[str, int]]]


@pytest.fixture
def counter(engine: Any, engine_counter: Callable[[Path], Any]) -> Any:
    command = engine.process.args
    return engine_counter(Path(command[command.index("--data-dir") + 1]))


@pytest.fixture
def run(api: Any, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the API's job in this process, and return the usage that its last event holds."""
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    api.put(ROWS)
    api.put(ROWS[:3], "exam@1.0.0")
    api.job |= {"rehearsal": True, "trained_model": "Qwen/Qwen3-8B"}

    async def work(kind: str, *, attempt: int = 1, **config: Any) -> dict[str, int]:
        api.job |= {"trainer_type": kind}
        if kind == "rl":
            api.job["config"].pop("dataset_ref", None)
        api.job["config"] |= {"lora_rank": 4, **config}
        stop = Stop()
        settings = Settings("http://api", api.token, "main", "default", "job-1", attempt)
        async with (
            connect(settings, transport=httpx2.ASGITransport(api.app)) as service,
            Reporter(service, attempt, stop) as reporter,
        ):
            await run_job(service, reporter, stop, tmp_path)
            await reporter.flush()
        usage: dict[str, int] = api.events[-1]["usage"]
        return usage

    return work


def planned(api: Any, folder: Path, model: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the fewest and the most tokens that the check of the API's job expects."""
    paths = {"train": "talk@1.0.0", "eval": "exam@1.0.0"}
    datasets: dict[str, Any] = {"trajectories": []}
    for role, name in paths.items():
        path = folder / f"{role}.jsonl"
        path.write_bytes(api.datasets[name])
        datasets[role] = str(path)
    kind, given = api.job["trainer_type"], api.job["config"]
    if "eval_dataset_ref" not in given:
        datasets["eval"] = None
    report = check(
        {
            "model": api.job["model"],
            "rehearsal": api.job["rehearsal"],
            "tokenizer": str(model),
            "trainer_type": kind,
            "config": complete(kind, {"max_sequence_length": 2048, **given}),
            "datasets": datasets,
        }
    )
    assert report["ok"], report
    empty = dict.fromkeys(KINDS, 0)
    return empty | report["plan"]["at_least"], empty | report["plan"]["at_most"]


@pytest.mark.parametrize(("kind", "config"), SHAPES)
async def test_a_job_counts_what_the_engine_itself_was_sent_and_has_sent(
    run: Run,
    api: Any,
    counter: Any,
    tmp_path: Path,
    tiny_model: Path,
    kind: str,
    config: dict[str, Any],
) -> None:
    usage = await run(kind, **config)

    assert usage == counter.tokens()
    assert usage["train"] > 0
    assert (usage["sample"] > 0) == (kind == "rl")
    assert json.loads((tmp_path / FILE).read_text()) == usage
    least, most = await asyncio.to_thread(planned, api, tmp_path, tiny_model)
    if kind == "sft":
        assert least == most == usage
    else:
        # What is not prefilled is cached, so the two ends of these kinds are the other way round.
        for each in KINDS:
            low, high = sorted((least[each], most[each]))
            assert low <= usage[each] <= high, each


async def test_a_format_that_rewrites_history_costs_what_its_check_has_counted(
    run: Run, api: Any, counter: Any, tmp_path: Path, tiny_model: Path
) -> None:
    # Qwen3 drops the reasoning of earlier turns, so each turn is a sequence of its own.
    turn = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2", "reasoning_content": "Add."},
    ]
    api.put([{"messages": turn * count} for count in (1, 2, 3, 2, 1)])
    api.job |= {"rehearsal": False}

    usage = await run("sft", batch_size=2, epochs=2)

    least, most = await asyncio.to_thread(planned, api, tmp_path, tiny_model)
    assert usage == counter.tokens() == least == most
    assert usage["train"] > 0


async def test_every_event_carries_a_total_that_only_grows(run: Run, api: Any) -> None:
    await run("sft", batch_size=4, epochs=2)

    totals = [event["usage"]["train"] for event in api.events]
    assert totals == sorted(totals)
    assert len(set(totals)) > 2


async def test_a_killed_attempt_leaves_its_counts_and_the_next_adds_what_is_left(
    run: Run,
    api: Any,
    served: str,
    engine: Any,
    counter: Any,
    warm_runtime: Any,
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    api.put(ROWS)
    api.job |= {"rehearsal": True, "trained_model": "Qwen/Qwen3-8B"}
    api.job["config"] |= {"batch_size": 4, "lora_rank": 4, "epochs": 12, "checkpoint_interval": 2}
    process = warm_runtime.start(
        ["--job-id", "job-1"],
        {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "DREADNODE_SERVER": served,
            "DREADNODE_API_KEY": api.token,
            "DREADNODE_ORGANIZATION": "main",
            "DREADNODE_WORKSPACE": "default",
            "TINKER_BASE_URL": engine.url,
            "TINKER_API_KEY": engine.KEY,
            "TINKER_TELEMETRY": "0",
        },
        folder=tmp_path,
    )

    def kill(event: dict[str, Any]) -> None:
        if event["data"].get("step") == 5:
            process.send_signal(signal.SIGKILL)

    api.on_event = kill
    assert await asyncio.to_thread(process.wait, 120) == -signal.SIGKILL
    api.on_event = lambda _: None
    left = json.loads((tmp_path / FILE).read_text())

    sent = counter.tokens()["train"]
    step = api.told("step_complete")[0]["metrics"]["train/num_tokens"][0]
    reported = api.events[-1]["usage"]["train"]
    assert reported <= left["train"]
    assert sent <= left["train"] <= sent + 2 * step

    usage = await run("sft", attempt=2)

    start = api.told("training_start")[-1]["data"]["start"]
    before = sum(api.job["metrics"]["train/num_tokens"][:start])
    assert start >= 2
    least, _ = await asyncio.to_thread(planned, api, tmp_path, tiny_model)
    assert usage["train"] == least["train"] - before


def test_completions_of_one_request_share_its_prompt_as_tinker_bills_it() -> None:
    meter = TokenMeter()
    sequence = types.SampledSequence("length", "s", np.array([1, 2, 3], np.int32))
    response = types.SampleResponse(sequences=[sequence] * 4, prompt_cache_hit_tokens=64)

    meter.count_sample(100, response)

    assert meter.tokens() == {"prefill": 36, "cached_prefill": 364, "sample": 12, "train": 0}


def test_counts_that_cannot_be_written_do_not_stop_a_job(tmp_path: Path) -> None:
    meter = TokenMeter(tmp_path / "missing" / FILE)

    meter.add({"train": 2**60})

    assert meter.tokens()["train"] == 2**60


@pytest.mark.parametrize(("kind", "config"), [SHAPES[0], SHAPES[1], ("rl", {**RL, "steps": 6})])
async def test_a_budget_stops_a_job_after_its_step_and_a_larger_one_finishes_it(
    run: Run, api: Any, counter: Any, kind: str, config: dict[str, Any]
) -> None:
    rates = dict.fromkeys(KINDS, "1000000")  # A dollar for each token.
    whole = sum((await run(kind, **config)).values())
    steps = api.job["metrics"]["train/steps"]
    api.forget()
    limit = random.Random(f"{kind}{config}").uniform(0.2, 0.7) * whole
    api.job["cost"] = {"rates": rates, "limit_usd": str(limit)}
    counter.forget()

    await run(kind, attempt=2, **config)

    end, spent = api.events[-1], sum(counter.tokens().values())
    assert (end["event_type"], end["data"]["stopped_by"]) == ("training_end", "budget")
    assert limit <= spent <= limit + 1.5 * whole / steps + 50
    assert 0 < end["data"]["step"] < steps
    checkpoint = end["artifacts"]["latest_checkpoint"]
    assert checkpoint.endswith(f"/step-{end['data']['step']:06d}")
    assert end["artifacts"]["adapter"] == "adapter/"

    api.job["cost"] = {"rates": rates, "limit_usd": str(3 * whole), "earlier_usd": str(spent)}
    # A retry takes over the history of the job, and not its last scalars.
    metrics = api.job["metrics"].items()
    api.job["metrics"] = {name: value for name, value in metrics if isinstance(value, list)}
    await run(kind, attempt=3, **config)

    assert api.told("training_start")[-1]["data"]["start"] == end["data"]["step"]
    assert api.job["metrics"]["train/steps"] == steps
    assert "stopped_by" not in api.events[-1]["data"]
