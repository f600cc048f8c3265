"""`dn train rl`, by its transcripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from dreadnode.cli.train.rl_flags import RlFlags
from dreadnode.training.rl import RlConfig
from inline_snapshot import snapshot

Dn = Callable[[str], str]


def sent(api: Any) -> dict[str, Any]:
    """Return the body of the last create."""
    posts = [each for each in api.requests if each.method == "POST"]
    body: dict[str, Any] = json.loads(posts[-1].content)
    return body


def test_an_rl_request_contains_only_the_given_settings(dn: Dn, api: Any) -> None:
    said = dn(
        "train rl --model Qwen/Qwen3-8B --prompt-dataset support@1.0.0 --algorithm ppo --steps 20 "
        """--reward-recipe contains_v1 --reward-params '{"needle": "ok"}' --group-size 4"""
    )

    assert sent(api) == snapshot(
        {
            "model": "Qwen/Qwen3-8B",
            "config": {
                "algorithm": "ppo",
                "prompt_dataset_ref": {"name": "support", "version": "1.0.0"},
                "reward_recipe": {"name": "contains_v1", "params": {"needle": "ok"}},
                "steps": 20,
                "group_size": 4,
            },
            "backend": "tinker",
            "trainer_type": "rl",
            "tags": [],
            "rehearse": False,
            "rehearse_first": False,
        }
    )
    assert said == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  steps 20, algorithm ppo, group_size 4
reward    contains_v1
created   2026-11-22 03:00:00
--- stderr
hint: `dn train wait 01900001-0000-7000-8000-000000000000` follows it
""")


def test_every_setting_of_a_job_is_a_flag() -> None:
    data = {"prompt_dataset_ref", "trajectory_dataset_refs", "eval_dataset_ref"}
    own = {"algorithm", "reward_recipe", "environment"}

    assert {each.name for each in fields(RlFlags)} == set(RlConfig.model_fields) - data - own


def test_settings_are_sent_as_given(dn: Dn, api: Any) -> None:
    dn(
        "train rl --model Qwen/Qwen3-8B --trajectory-dataset a@1 --trajectory-dataset b@2 "
        "--execution-mode fully_async --max-steps-off-policy 3 --temperature 0.8 --stop END "
        "--stop '###' --scale-advantages --no-shuffle --seed 0 --num-rollouts 32 --batch-size 8"
    )

    config = sent(api)["config"]
    assert config["trajectory_dataset_refs"] == [
        {"name": "a", "version": "1"},
        {"name": "b", "version": "2"},
    ]
    assert config["stop"] == ["END", "###"]
    assert (config["execution_mode"], config["max_steps_off_policy"]) == ("fully_async", 3)
    assert (config["temperature"], config["seed"]) == (0.8, 0)
    assert (config["scale_advantages"], config["shuffle"]) == (True, False)
    assert (config["num_rollouts"], config["batch_size"]) == (32, 8)


def test_a_python_file_is_sent_as_reward_and_another_as_environment(dn: Dn, api: Any) -> None:
    Path("reward.py").write_text("def reward(answer, row):\n    return len(answer)\n")
    Path("tools.py").write_text("def tools():\n    return []\n")

    dn(
        "train rl --model Qwen/Qwen3-8B --prompt-dataset support@1.0.0 --reward-recipe reward.py "
        """--reward-params '{"on_error": "count"}' --environment tools.py --max-turns 4"""
    )

    config = sent(api)["config"]
    assert config["reward_recipe"]["name"] == "python_v1"
    assert config["reward_recipe"]["params"]["on_error"] == "count"
    assert config["reward_recipe"]["params"]["source"].startswith("def reward")
    assert config["environment"]["params"]["source"].startswith("def tools")


def test_reward_parameters_may_come_from_a_file(dn: Dn, api: Any) -> None:
    Path("params.json").write_text('{"needle": "from a file"}')

    dn(
        "train rl --model Qwen/Qwen3-8B --prompt-dataset support@1.0.0 "
        "--reward-recipe contains_v1 --reward-params params.json"
    )

    assert sent(api)["config"]["reward_recipe"]["params"] == {"needle": "from a file"}


def test_a_file_of_prompts_is_pushed_first(dn: Dn, api: Any) -> None:
    Path("ask.jsonl").write_text('{"prompt": "Where?"}\n')

    said = dn("train rl --model Qwen/Qwen3-8B --prompt-dataset ask.jsonl")

    assert sent(api)["config"]["prompt_dataset_ref"]["name"] == "ask"
    assert "stored ask.jsonl as ask@" in said


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("", "name the dataset of prompts with `--prompt-dataset` or `--trajectory-dataset`"),
        (
            "--prompt-dataset a@1 --reward-params '{}'",
            "`--reward-params` has no effect without `--reward-recipe`; give both",
        ),
        (
            "--prompt-dataset a@1 --reward-recipe contains_v1 --reward-params needle",
            "`--reward-params` is not JSON: Expecting value: line 1 column 1 (char 0)",
        ),
        (
            "--prompt-dataset a@1 --reward-recipe contains_v1 --reward-params '[1]'",
            '`--reward-params` must be a JSON object, as in \'{"needle": "yes"}\'',
        ),
        (
            "--prompt-dataset a@1 --reward-recipe nothing.py",
            "`nothing.py` cannot be read: No such file or directory",
        ),
        (
            "--prompt-dataset a@1 --steps=-1",
            "`--steps` must be at least 1, not -1",
        ),
        ("--prompt-dataset a@1 --temperature 0", "`--temperature` must be above 0, not 0.0"),
        ("--prompt-dataset a@1 --group-size 1", "`--group-size` must be at least 2, not 1"),
        ("--prompt-dataset a@1 --adam-beta2 1", "`--adam-beta2` must be below 1, not 1.0"),
        (
            "--prompt-dataset a@1 --clip-high-threshold 0.5",
            "`--clip-high-threshold` must be at least 1, not 0.5",
        ),
    ],
)
def test_impossible_settings_are_refused_before_a_request_is_sent(
    dn: Dn, api: Any, flags: str, sentence: str
) -> None:
    said = dn(f"train rl --model Qwen/Qwen3-8B {flags}")

    assert f"error: {sentence}\n" in said
    assert not [each for each in api.requests if each.method in ("POST", "PUT")]
