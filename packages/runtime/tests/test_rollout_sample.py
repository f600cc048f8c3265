"""The rollouts that a job keeps: the same steps in each attempt, bounded, and without secrets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_api.training.rollout_schemas import RolloutsReport
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.rewards.recipes import Score
from dreadnode_runtime.rl import rollout_sample
from dreadnode_runtime.rl.rollout_sample import MAX_STEPS, is_sampled, step_rollouts
from dreadnode_runtime.rl.rollouts import Group, Rollout


@pytest.fixture(scope="module")
def rendering(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))


@pytest.fixture
def group(rendering: Rendering) -> Callable[..., Group]:
    def encode(text: str) -> Any:
        return np.array(rendering.already_rendered(text), np.int32)

    def group(rewards: list[float], said: str = "4", **fields: Any) -> Group:
        asked = Conversation([{"role": "user", "content": "2+2?"}])
        prompt = Prompt(asked, 7, expected="4", tokens=rendering.prompt(asked))
        fields = {"transcript": [encode(said)], **fields}
        return Group(
            prompt,
            [Rollout([], Score(reward), 1, 2, reward < 0, 9, **fields) for reward in rewards],
        )

    return group


@pytest.mark.parametrize("steps", [1, 2, 99, 100, 101, 5000, 123_457])
def test_the_first_and_the_last_step_are_kept_and_never_more_than_the_bound(steps: int) -> None:
    kept = [step for step in range(1, steps + 1) if is_sampled(step, steps)]

    assert (kept[0], kept[-1]) == (1, steps)
    assert min(steps, MAX_STEPS // 2) <= len(kept) <= MAX_STEPS


def test_a_group_has_its_prompt_rewards_and_advantages(
    rendering: Rendering, group: Callable[..., Group]
) -> None:
    found = step_rollouts(3, [(2, group([1.0, -1.0])), (0, group([1, 1]))], rendering, scale=False)

    first, second = found["groups"]
    assert (found["step"], found["groups_total"]) == (3, 2)
    assert (first["row"], first["staleness"], first["expected"]["text"]) == (7, 2, "4")
    assert "2+2?" in first["prompt"]["text"]
    assert [(c["reward"], c["advantage"], c["truncated"]) for c in first["completions"]] == [
        (1.0, 1.0, False), (-1.0, -1.0, True),
    ]  # fmt: skip
    assert first["completions"][0]["turns"] == [
        {"role": "assistant", "content": {"text": "4", "left_out": 0, "rest": ""}}
    ]
    assert (first["degenerate"], second["degenerate"]) == (False, True)
    assert [c["advantage"] for c in second["completions"]] == [0.0, 0.0]
    RolloutsReport.model_validate_json(json.dumps(found))


def test_of_a_large_group_the_kept_completions_span_its_rewards(
    rendering: Rendering, group: Callable[..., Group]
) -> None:
    found = step_rollouts(
        1, [(0, group([float(n) for n in range(64)]))] * 9, rendering, scale=False
    )

    (first, *_) = found["groups"]
    assert (len(found["groups"]), found["groups_total"]) == (8, 9)
    assert first["completions_total"] == 64
    assert [c["number"] for c in first["completions"]] == [1, 10, 19, 28, 37, 46, 55, 64]


def test_long_texts_lose_their_middle_and_short_ones_nothing(
    rendering: Rendering, group: Callable[..., Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_sample, "MAX_CHARACTERS", 400)
    result: Any = {"role": "tool", "content": "\0" + "x" * 5000 + "end"}

    found = step_rollouts(1, [(0, group([1.0], transcript=[result]))], rendering, scale=False)

    (completion,) = found["groups"][0]["completions"]
    content = completion["turns"][0]["content"]
    kept = len(content["text"]) + len(content["rest"])
    assert content["text"].startswith("\u2400x")
    assert content["rest"].endswith("xend")
    assert content["left_out"] + kept == 5004
    assert 200 < kept <= 400
    assert found["groups"][0]["prompt"]["left_out"] == 0


def test_text_that_json_escapes_stays_below_the_bound_in_bytes(
    rendering: Rendering, group: Callable[..., Group]
) -> None:
    result: Any = {"role": "tool", "content": "\U0001f600" * 200_000}
    turns = [result] * 20

    found = step_rollouts(1, [(0, group([0.0] * 8, transcript=turns))] * 8, rendering, scale=False)

    body = json.dumps(found)
    assert rollout_sample.MAX_BYTES / 4 < len(body) <= rollout_sample.MAX_BYTES
    completion = RolloutsReport.model_validate_json(body).groups[0].completions[0]
    assert (len(completion.turns), completion.turns_total) == (8, 20)


def test_a_secret_of_the_sandbox_is_not_kept(
    rendering: Rendering, group: Callable[..., Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-secret")

    found = step_rollouts(1, [(0, group([1.0], "tml-secret"))], rendering, scale=False)

    assert found["groups"][0]["completions"][0]["turns"][0]["content"]["text"] == "***"
