"""`dn train rollouts`, by transcripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]


def completion(number: int, reward: float, said: str, **fields: Any) -> dict[str, Any]:
    turns = [{"role": "assistant", "content": {"text": said, "left_out": 0, "rest": ""}}]
    return {
        "number": number,
        "reward": reward,
        "advantage": reward - 0.25,
        "tokens": len(said),
        "turns": turns,
        "turns_total": 1,
        **fields,
    }


def text(value: str, left_out: int = 0, rest: str = "") -> dict[str, Any]:
    return {"text": value, "left_out": left_out, "rest": rest}


@pytest.fixture
def kept(api: Any) -> Any:
    """An API that has kept rollouts of three steps: a group as usual, and one of two turns."""
    usual = {
        "row": 3,
        "prompt": text("<|im_start|>user\n2+2?"),
        "expected": text("4"),
        "staleness": 1,
        "reward_mean": 0.125,
        "completions": [
            completion(1, 0, "5 \x1b[31m\u202e", truncated=True),
            completion(2, 0.5, "4"),
        ],
        "completions_total": 16,
    }
    called = [
        {"role": "assistant", "content": text("add(2", 1200, "2)")},
        {"role": "tool", "content": text("4")},
    ]
    failed = completion(1, 1, "", turns=called, turns_total=9, error=text("no such key"))
    tools = {
        "row": 8,
        "dataset": "sums@1.0.0",
        "prompt": text("?"),
        "degenerate": True,
        "reward_mean": 1,
        "completions": [failed],
        "completions_total": 1,
    }
    api.rollouts = {"steps": [1, 10, 20], "step": 10, "groups": [usual, tools], "groups_total": 4}
    return api


def test_rollouts_show_prompts_and_completions_with_control_characters_escaped(
    dn: Dn, kept: Any
) -> None:
    assert dn("train rollouts last --step 10") == snapshot("""\
exit: 0
--- stdout
step 10: 2 of 4 groups

group 1, row 3, 2 of 16 completions, mean reward 0.125, sampled 1 step earlier
  prompt
    <|im_start|>user
    2+2?
  expected
    4
  completion 1: reward 0, advantage -0.25, 8 tokens, TRUNCATED
    5 \\u001b[31m\\u202e
  completion 2: reward 0.5, advantage +0.25, 1 token
    4

group 2, row 8 of sums@1.0.0, 1 completion, mean reward 1, DEGENERATE: equal rewards
  prompt
    ?
  completion 1: reward 1, advantage +0.75, 0 tokens
    the reward failed: no such key
    [assistant]
    add(2
    … 1,200 characters left out …
    2)
    … 7 turns left out …
    [tool]
    4
--- stderr
hint: `--step N` shows another step: 1, 20
""")
    assert kept.requests[-1].url.params["step"] == "10"


@pytest.mark.parametrize("by", ["reward", "advantage"])
def test_the_highest_values_come_first_when_sorted(dn: Dn, kept: Any, by: str) -> None:
    shown = dn(f"train rollouts last --sort {by} --json")

    groups = json.loads(shown.partition("--- stdout\n")[2].partition("--- stderr")[0])["groups"]
    assert [group["row"] for group in groups] == [8, 3]
    assert [each["number"] for each in groups[1]["completions"]] == [2, 1]


def test_a_job_before_its_first_step_has_no_rollouts_yet(dn: Dn, api: Any) -> None:
    api.rollouts = {"steps": [], "step": None, "groups": [], "groups_total": 0}

    assert dn("train rollouts last") == snapshot("""\
exit: 0
--- stdout
--- stderr
no rollouts yet; they come with the first step
""")
