"""Evaluations: the real engine and SDK, tiny models, and a process that is killed on the way."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tinker
from dreadnode_api.training.defaults import complete
from dreadnode_api.training.evaluation_results import EvaluationResult
from dreadnode_runtime.backend.tinker_trainer import _datums
from dreadnode_runtime.commands.check import check
from dreadnode_runtime.commands.train import run_job
from dreadnode_runtime.control.api import Settings, connect
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.prepare import prepare
from dreadnode_runtime.errors import JobFailed

MODEL = "Qwen/Qwen3-8B"
SETTINGS = Settings("http://api", "dnj_secret", "main", "default", "job-1", attempt=1)
ROWS = [{"prompt": f"say {n}", "answer": f"the answer is {n}"} for n in range(6)]
SHORT = """
def reward(answer, row):
    return len(answer) / 100
"""
REWARD = {"name": "python_v1", "params": {"source": SHORT}}


@pytest.fixture(autouse=True)
def connected(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    monkeypatch.setenv("DREADNODE_ALLOW_CUSTOM_CODE", "1")


@pytest.fixture(scope="module")
def trained(engine: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that has learnt the rows, with the path of its weights."""
    os.environ |= {"TINKER_BASE_URL": engine.url, "TINKER_API_KEY": engine.KEY}
    client = tinker.ServiceClient().create_lora_training_client(base_model=MODEL, rank=8).result()
    data = _datums(_examples(tiny_model, tmp_path_factory.mktemp("rows")))
    for _ in range(12):
        client.forward_backward(data, "cross_entropy")
        client.optim_step(tinker.types.AdamParams(learning_rate=1e-2)).result()
    return client, client.save_state("step-000012").result().path


def _examples(tiny_model: Path, folder: Path) -> list[Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rendering = load_rendering(MODEL, rehearsal=True, tokenizer=str(tiny_model))
    found: list[Any] = []
    prepare(
        folder / "rows.jsonl",
        rendering,
        max_length=256,
        train_on="all_assistant_messages",
        keep=found.extend,
    )
    return found


@pytest.fixture
def evaluated(api: Any, tiny_model: Path) -> Callable[..., None]:
    """Make the API's job an evaluation of the base model beside CHECKPOINT."""

    def make(checkpoint: str | None, rows: Sequence[Any] = ROWS, **config: Any) -> None:
        api.put(rows)
        about = {"model": MODEL, "rehearsal": True, "tokenizer": str(tiny_model), "renderer": None}
        about |= {"base_model": MODEL, "lineage": "l", "job_id": None, "step": None}
        models = [{**about, "name": MODEL, "checkpoint": None}]
        if checkpoint is not None:
            models.append({**about, "name": "job", "checkpoint": checkpoint, "step": 12})
        api.job |= {"trainer_type": "eval", "artifacts": {"models": models}}
        api.job["config"] = {
            "models": [each["name"] for each in models],
            "dataset_ref": {"name": "talk", "version": "1.0.0"},
            "max_sequence_length": 256,
            **config,
        }

    return make


async def run(api: Any, folder: Path, stop: Stop | None = None) -> None:
    folder.mkdir()  # noqa: ASYNC240
    stop = stop or Stop()
    async with (
        connect(SETTINGS, transport=httpx2.ASGITransport(api.app)) as service,
        Reporter(service, 1, stop) as reporter,
    ):
        await run_job(service, reporter, stop, folder)
        await reporter.flush()


def result(api: Any) -> EvaluationResult:
    found = json.loads(api.files["evaluation/result.json"])
    return EvaluationResult.model_validate({**found, "job_id": "job-1"})


def tokens(api: Any) -> dict[str, int]:
    return dict(api.events[-1]["usage"])


async def test_the_loss_is_that_of_a_forward_pass_and_the_trained_model_wins_every_row(
    api: Any, evaluated: Any, trained: Any, tiny_model: Path, tmp_path: Path
) -> None:
    client, path = trained
    examples = _examples(tiny_model, tmp_path)
    outputs = client.forward(_datums(examples), "cross_entropy").result().loss_fn_outputs
    expected = [
        -float(found["logprobs"].to_numpy()[each.trained[1:]].sum())
        for each, found in zip(examples, outputs, strict=True)
    ]
    evaluated(path)

    await run(api, tmp_path / "work")

    found = result(api)
    base, job = found.models
    assert job.loss is not None
    assert base.loss is not None
    count = sum(int(each.trained.sum()) for each in examples)
    assert job.loss.value == pytest.approx(sum(expected) / count, rel=1e-4)
    assert job.loss_tokens == count
    assert job.loss.low is not None
    assert job.loss.low < job.loss.value < (job.loss.high or 0)
    (compared,) = found.comparisons
    assert (compared.metric, compared.wins, compared.ties, compared.losses) == ("loss", 6, 0, 0)
    assert compared.difference.value == pytest.approx(job.loss.value - base.loss.value)
    assert compared.difference.high is not None
    assert compared.difference.high < 0
    assert len(compared.changed) == 6
    (end,) = api.told("training_end")
    assert end["metrics"]["model_2/loss"] == job.loss.value
    assert tokens(api)["sample"] == 12
    assert tokens(api)["train"] == 0
    lines = [json.loads(line) for line in api.files["evaluation/rows.jsonl"].splitlines()]
    assert [(line["row"], line["model"]) for line in lines[:3]] == [
        *((1, MODEL), (1, "job"), (2, MODEL)),
    ]


async def test_rewards_are_means_of_samples_and_equal_weights_tie(
    api: Any, evaluated: Any, tmp_path: Path
) -> None:
    client = tinker.ServiceClient().create_lora_training_client(base_model=MODEL, rank=4).result()
    untrained = client.save_weights_for_sampler("final").result().path
    config = {"reward_recipe": REWARD, "samples": 2, "temperature": 0.7, "max_tokens": 6}
    evaluated(untrained, loss=False, limit=3, **config)

    await run(api, tmp_path / "work")

    found = result(api)
    base, job = found.models
    assert (found.rows, base.rows, base.completions, base.loss) == (3, 3, 6, None)
    assert base.reward is not None
    assert base.reward == job.reward
    assert base.reward.method == "student_t"
    (compared,) = found.comparisons
    assert (compared.metric, compared.wins, compared.ties, compared.losses) == ("reward", 0, 3, 0)
    assert compared.changed == []


async def test_rows_that_earlier_attempts_finished_are_not_computed_again(
    api: Any, evaluated: Any, trained: Any, tmp_path: Path
) -> None:
    evaluated(trained[1], reward_recipe=REWARD, max_tokens=4)
    await run(api, tmp_path / "whole")
    whole, expected = tokens(api), result(api)
    parts = sorted(path for path in api.files if path.startswith("evaluation/parts/"))
    api.files = {path: api.files[path] for path in parts[:-1]}
    stored = [json.loads(line) for path in parts[:-1] for line in api.files[path].splitlines()]
    # Computing the loss of a row samples one token.
    kept = sum(each["sampled_tokens"] + 1 for each in stored)
    api.events.clear()

    await run(api, tmp_path / "again")

    assert tokens(api)["sample"] == whole["sample"] - kept
    assert result(api).model_dump() == expected.model_dump()
    start = api.told("training_start")[0]
    assert f"{len(stored)} of 12 results are stored already" in start["message"]


async def test_a_budget_ends_an_evaluation_with_the_finished_rows(
    api: Any, evaluated: Any, tmp_path: Path
) -> None:
    rates = dict.fromkeys(("prefill", "cached_prefill", "sample", "train"), "1000000")
    api.job["cost"] = {"rates": rates, "limit_usd": "1"}
    evaluated(None, rows=ROWS * 20)

    await run(api, tmp_path / "work")

    (end,) = api.told("training_end")
    assert end["data"]["stopped_by"] == "budget"
    assert 0 < result(api).models[0].rows <= 32
    assert result(api).rows == 120


def test_a_killed_process_leaves_its_rows_to_the_next_attempt(
    api: Any, served: str, engine: Any, warm_runtime: Any, evaluated: Any, tmp_path: Path
) -> None:
    evaluated(None, rows=ROWS * 20, reward_recipe=REWARD, max_tokens=8)

    def start(attempt: int) -> Any:
        work = tmp_path / f"work-{attempt}"
        work.mkdir()
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(work),
            "TMPDIR": str(work),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "DREADNODE_ALLOW_CUSTOM_CODE": "1",
            "DREADNODE_SERVER": served,
            "DREADNODE_API_KEY": api.token,
            "DREADNODE_ORGANIZATION": "main",
            "DREADNODE_WORKSPACE": "default",
            "DREADNODE_JOB_ATTEMPT": str(attempt),
            "TINKER_BASE_URL": engine.url,
            # The key of the job opens nothing here; the one of the first model opens it.
            "TINKER_API_KEY": "tml-not-a-key-of-this-engine",
            "TINKER_API_KEY_0": engine.KEY,
            "TINKER_TELEMETRY": "0",
        }
        return warm_runtime.start(
            ["--job-id", "job-1"], variables, folder=work, stderr=subprocess.STDOUT
        )

    first = start(1)
    api.on_event = lambda event: first.kill() if event["event_type"] == "step_complete" else None
    first.communicate(timeout=150)
    api.on_event = lambda event: None
    parts = [api.files[path] for path in api.files if path.startswith("evaluation/parts/")]
    stored = sum(len(part.splitlines()) for part in parts)
    second = start(2)
    output, _ = second.communicate(timeout=150)

    assert second.returncode == 0, output
    assert 0 < stored < 120
    (start_event,) = [e for e in api.told("training_start") if e["attempt"] == 2]
    assert start_event["data"] == {"trainer_type": "eval", "start": stored, "steps": 120}
    assert result(api).models[0].rows == 120
    assert "tml-" not in json.dumps(api.events)


@pytest.fixture
def question(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Ask the check about an evaluation of one model."""

    def ask(rows: Sequence[Any] = ROWS, **config: Any) -> dict[str, Any]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {
            "models": ["job"],
            "dataset_ref": {"name": "talk", "version": "1.0.0"},
            "max_sequence_length": 256,
            **config,
        }
        return check(
            {
                "model": MODEL,
                "rehearsal": True,
                "tokenizer": str(tiny_model),
                "trainer_type": "eval",
                "config": complete("eval", given),
                "datasets": {"train": None, "eval": str(tmp_path / "rows.jsonl")},
                "formats": [{"model": MODEL, "rehearsal": True, "tokenizer": str(tiny_model)}] * 2,
            }
        )

    return ask


async def test_the_check_bounds_the_tokens_that_the_evaluation_uses(
    question: Any, api: Any, evaluated: Any, trained: Any, tmp_path: Path
) -> None:
    config = {"reward_recipe": REWARD, "samples": 2, "temperature": 1.0, "max_tokens": 5}
    plan = (await asyncio.to_thread(question, **config))["plan"]
    evaluated(trained[1], **config)

    await run(api, tmp_path / "work")

    used = tokens(api)
    assert plan["steps"] == 12
    for kind in ("sample", "train"):
        assert plan["at_least"][kind] <= used[kind] <= plan["at_most"][kind]
    sent = used["prefill"] + used["cached_prefill"]
    for side in ("at_least", "at_most"):
        assert plan[side]["prefill"] + plan[side]["cached_prefill"] == sent
    assert used["prefill"] <= plan["at_most"]["prefill"]


@pytest.mark.parametrize(
    ("config", "place", "sentence"),
    [
        (
            {"reward_recipe": {"name": "gsm8k_v1"}, "rows": [{"prompt": "a", "answer": "b"}]},
            "dataset_ref",
            "None of the 1 rows gives",
        ),
        ({"reward_recipe": {"name": "contains_v1"}}, "reward_recipe", "needle"),
        (
            {
                "reward_recipe": {
                    "name": "python_v1",
                    "params": {"source": "def reward(answer, row): return len(answer) / 0"},
                }
            },
            "reward_recipe",
            "division by zero",
        ),
        ({"rows": [{"prompt": "a"}]}, "dataset_ref", "None of the 1 rows"),
        ({"strict": True, "rows": [*ROWS, {"prompt": "a"}]}, "dataset_ref", "`strict` forbids"),
    ],
)
def test_the_check_refuses_what_cannot_be_evaluated(
    question: Any, config: dict[str, Any], place: str, sentence: str
) -> None:
    found = question(**config)

    assert found["ok"] is False
    assert found["loc"] == ["config", place]
    assert sentence in found["error"]


def test_rows_without_an_answer_get_rewards_and_no_loss(question: Any) -> None:
    found = question(rows=[{"prompt": "a"}, *ROWS], reward_recipe=REWARD, max_tokens=4)

    assert (found["ok"], found["usable"], found["plan"]["steps"]) == (True, 7, 14)


async def test_an_evaluation_with_unreadable_models_is_refused(
    api: Any, evaluated: Any, tmp_path: Path
) -> None:
    evaluated("tinker://nothing:train:0/weights/step-000001")

    with pytest.raises(JobFailed, match="The engine refused the work"):
        await run(api, tmp_path / "work")


def test_intervals_are_those_of_textbooks() -> None:
    from dreadnode_runtime.evaluation import statistics

    # Quantiles of Student's t from a table, Wilson's interval by hand.
    for degrees, quantile in ((1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (1000, 1.962)):
        assert statistics.t_quantile(degrees) == pytest.approx(quantile, abs=2e-3)
    shares = statistics.mean([1.0] * 8 + [0.0] * 2)
    assert (shares.low, shares.high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    values = statistics.mean([1.0, 2.0, 3.0, 4.0])
    assert values.high == pytest.approx(2.5 + 3.182 * np.std([1, 2, 3, 4], ddof=1) / 2, abs=2e-3)
    assert statistics.mean([0.5]).low is None
    equal = statistics.ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (equal.value, equal.low, equal.high) == (2.0, 2.0, 2.0)
