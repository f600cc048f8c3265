"""RL jobs as they really run: a process of its own, the official SDK, a real engine."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.commands.check import check

ROWS = [{"prompt": f"say {n}", "answer": f"{n}"} for n in range(8)]
LOWER = """
def reward(answer, row):
    return sum(c.islower() and c.isascii() for c in answer) / max(len(answer), 1)
"""
TOOLS = """
def tools():
    return [{"name": "add", "description": "Adds.", "parameters": {"type": "object"}}]

def start(row):
    return {"calls": 0, "of": row["prompt"]}

def call(state, name, arguments):
    return {**state, "calls": state["calls"] + 1}, arguments["a"] + arguments["b"]
"""
BASE = {
    "algorithm": "importance_sampling",
    "prompt_dataset_ref": {"name": "talk", "version": "1.0.0"},
    "reward_recipe": {"name": "python_v1", "params": {"source": LOWER}},
    "max_new_tokens": 12,
    "max_sequence_length": 256,
    "num_rollouts": 4,
    "batch_size": 4,
    "steps": 8,
    "lora_rank": 8,
    "learning_rate": 2e-2,
    "checkpoint_interval": 3,
}


@pytest.fixture
def sandbox(
    api: Any, served: str, engine: Any, warm_runtime: Any, tmp_path: Path
) -> Callable[..., Any]:
    """Start the runtime on the API's job, with the environment that a runner gives it."""
    api.put(ROWS)
    api.job |= {"trainer_type": "rl", "rehearsal": True, "trained_model": "Qwen/Qwen3-8B"}
    work = tmp_path / "work"
    work.mkdir()

    def start(attempt: int = 1, **config: Any) -> Any:
        api.job["config"] = {**BASE, **config}
        return warm_runtime.start(
            ["--job-id", "job-1"],
            {
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
                "TINKER_API_KEY": engine.KEY,
                "TINKER_TELEMETRY": "0",
            },
            folder=work,
            stderr=subprocess.STDOUT,
        )

    return start


def ends(process: Any) -> tuple[int, str]:
    output, _ = process.communicate(timeout=150)
    return process.returncode, output


def test_a_job_trains_on_a_users_own_reward_and_leaves_an_adapter(sandbox: Any, api: Any) -> None:
    code, output = ends(sandbox())

    assert code == 0, output
    metrics, artifacts = api.job["metrics"], api.job["artifacts"]
    assert metrics["train/steps"] == 8
    assert max(metrics["train/reward"][-3:]) > metrics["train/reward"][0] + 0.1
    assert metrics["train/num_rollouts"] == 8 * 4 * 8
    assert [path.rpartition("/")[2] for path in artifacts["checkpoints"]] == [
        *("step-000003", "step-000006", "final")
    ]
    assert artifacts["execution_mode"] == "sync"
    assert artifacts["prompt_dataset"] == "talk@1.0.0"
    assert set(api.files) == {
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        "adapter/README.md",
    }
    assert "secret" not in json.dumps(api.events)
    assert any("The reward's code runs with" in e.get("message", "") for e in api.events)


def test_a_killed_job_samples_and_learns_what_an_unbroken_one_does(sandbox: Any, api: Any) -> None:
    config = {
        "steps": 6,
        "checkpoint_interval": 2,
        "learning_rate_schedule": "linear",
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "grad_clip_norm": 0.3,
        "adam_beta1": 0.8,
        "adam_eps": 1e-6,
    }
    code, output = ends(sandbox(**config))
    assert code == 0, output
    expected = dict(api.job["metrics"])
    api.forget()

    first = sandbox(**config)
    api.on_event = lambda event: first.kill() if event["event_type"] == "checkpoint_saved" else None
    ends(first)
    api.on_event = lambda event: None
    code, output = ends(sandbox(attempt=2, **config))

    assert code == 0, output
    (start,) = [e for e in api.told("training_start") if e["attempt"] == 2]
    assert start["data"]["start"] == 2
    assert api.job["metrics"]["steps"] == [1, 2, 3, 4, 5, 6]
    # The last bits of sampled log-probabilities depend on what is sampled at the same moment.
    for name in ("reward", "reward_std", "sampled_tokens", "trained_tokens", "degenerate_groups"):
        assert api.job["metrics"][f"train/{name}"] == expected[f"train/{name}"]
    assert api.job["metrics"]["train/entropy"] == pytest.approx(expected["train/entropy"], rel=1e-4)


def test_a_cancelled_job_ends_after_its_step_with_a_checkpoint(sandbox: Any, api: Any) -> None:
    def cancel(event: dict[str, Any]) -> None:
        if event["event_type"] == "step_complete":
            api.job["cancel_requested_at"] = "2026-11-22T03:00:00Z"

    api.on_event = cancel

    code, output = ends(sandbox(steps=200))

    assert code == 0, output
    (end,) = api.told("training_end")
    assert end["data"]["cancelled"] is True
    assert api.job["artifacts"]["latest_checkpoint"].endswith(f"{end['data']['step']:06d}")


def test_a_reward_that_raises_fails_the_job_with_the_rows_number(sandbox: Any, api: Any) -> None:
    source = "def reward(answer, row):\n    return len(answer) / (row['prompt'] != 'say 3')\n"

    code, output = ends(sandbox(reward_recipe={"name": "python_v1", "params": {"source": source}}))

    assert code == 1, output
    (error,) = api.told("training_error")
    assert error["data"] == {"code": "reward", "fault": "job"}
    assert error["error"].startswith("The reward function failed on a completion for row 4, `")
    assert error["error"].endswith("`: ZeroDivisionError: division by zero (line 2 of reward.py)")


def test_a_tiny_model_trains_in_an_environment_with_tools(sandbox: Any, api: Any) -> None:
    environment = {"name": "python_v1", "params": {"source": TOOLS}}

    code, output = ends(
        sandbox(environment=environment, max_turns=3, steps=2, max_sequence_length=480)
    )

    assert code == 0, output
    assert api.job["metrics"]["train/turns_mean"] == [1.0, 1.0]


@pytest.fixture
def question(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask the check about an RL job."""
    monkeypatch.setenv("DREADNODE_ALLOW_CUSTOM_CODE", "1")

    def ask(rows: list[Any] = ROWS, **config: Any) -> dict[str, Any]:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        trajectories = config.pop("trajectories", False)
        if trajectories:
            ref = BASE["prompt_dataset_ref"]
            config |= {"prompt_dataset_ref": None, "trajectory_dataset_refs": [ref]}
        return check(
            {
                "model": "Qwen/Qwen3-8B",
                "rehearsal": True,
                "trained_model": "stand-in/tiny",
                "tokenizer": str(tiny_model),
                "trainer_type": "rl",
                "config": complete("rl", {**BASE, **config}),
                "datasets": {
                    "train": None if trajectories else str(file),
                    "trajectories": [str(file)] if trajectories else [],
                    "eval": None,
                },
            }
        )

    return ask


def test_the_check_reports_the_planned_rollouts(question: Any) -> None:
    answer = question()

    assert answer["ok"] is True
    assert (answer["rows"], answer["usable"], answer["prompts"]) == (8, 8, 8)
    assert (answer["steps"], answer["rollouts"]) == (8, 256)
    assert answer["tokens"] > 0
    assert any("output" in line for line in answer["confined"])


def test_the_check_counts_each_turn_of_a_trajectory_as_a_prompt(question: Any) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2
    recipe = {"name": "trajectory_imitation_v1"}

    answer = question([{"messages": talk}], trajectories=True, reward_recipe=recipe)

    assert (answer["rows"], answer["prompts"]) == (1, 2)


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("def reward(a, r): return float('\\\\boxed{' in a)", {}),
        ("def reward(a, r): return len(a) // 10_000", {"allow_constant": True}),
    ],
)
def test_a_reward_for_a_form_of_the_answer_or_allowed_to_be_constant_is_accepted(
    question: Any, source: str, params: dict[str, Any]
) -> None:
    recipe = {"name": "python_v1", "params": {"source": source, **params}}
    rows = [{"prompt": "2+2", "answer": "4"}, {"prompt": "2+3", "answer": "5"}]

    assert question(rows, reward_recipe=recipe)["ok"] is True


REFUSALS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "an unknown reward": (
        {"reward_recipe": {"name": "contain_v1"}},
        ["config", "reward_recipe"],
        "The reward cannot be used: unknown reward recipe `contain_v1`; did you mean `contai",
    ),
    "a reward that pays all the same": (
        {"reward_recipe": {"name": "row_reward_v1"}},
        ["config", "reward_recipe"],
        "gives all completions of a prompt the same reward",
    ),
    "a reward that reads the completion and pays all the same": (
        {
            "reward_recipe": {
                "name": "python_v1",
                "params": {"source": "def reward(a, r): return 0.5 if isinstance(a, str) else 1"},
            }
        },
        ["config", "reward_recipe"],
        "The reward function gives right, wrong and empty completions of a prompt the same",
    ),
    "a reward that cannot be loaded": (
        {"reward_recipe": {"name": "python_v1", "params": {"source": "def reward(:"}}},
        ["config", "reward_recipe"],
        "The reward function cannot be loaded: SyntaxError",
    ),
    "a reward that raises": (
        {
            "reward_recipe": {
                "name": "python_v1",
                "params": {"source": "def reward(a, r): return len(a) * r['absent']"},
            }
        },
        ["config", "reward_recipe"],
        "The reward function failed on a completion for row 1, `0`: KeyError: 'absent' (line 1 of",
    ),
    "a reward whose every failure would be counted": (
        {
            "reward_recipe": {
                "name": "python_v1",
                "params": {"source": "def reward(a, r): return a and None", "on_error": "count"},
            }
        },
        ["config", "reward_recipe"],
        "The reward function failed on every answer that it was tried on: on `0`, TypeError",
    ),
    "an environment without tools": (
        {
            "environment": {
                "name": "python_v1",
                "params": {"source": TOOLS.replace('[{"name"', '[] and [{"name"')},
            }
        },
        ["config", "environment"],
        "The environment cannot be used: `tools` returns an empty list",
    ),
    "an unknown environment": (
        {"environment": {"name": "world", "params": {"source": "x"}}},
        ["config", "environment"],
        "The environment's `name` is invalid",
    ),
    "prompts without room": (
        {"max_sequence_length": 16},
        ["config", "prompt_dataset_ref"],
        "None of the 8 rows gives a prompt to train on; 8 of them: the prompt and 12 new tokens",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_the_check_refuses_jobs_that_would_fail_in_training(question: Any, what: str) -> None:
    config, place, sentence = REFUSALS[what]

    answer = question(**config)

    assert answer["ok"] is False
    assert answer["loc"] == place
    assert sentence in answer["error"]
