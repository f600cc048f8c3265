"""The sample of rollouts that a job keeps for people: some steps, and some groups of each.

The API stores it. It is bounded, so that a long job does not fill the database: in steps, in groups
of a step, in completions of a group, in turns of a completion and in the text of a step.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.control.api import redacted
from dreadnode_runtime.data.normal_form import content_text
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.rl.rollouts import Group, Rollout, advantages

MAX_STEPS = 100
MAX_GROUPS = 8
MAX_COMPLETIONS = 8
MAX_TURNS = 8
MAX_CHARACTERS = 128 * 1024
"""Characters of the texts of one step."""
MAX_BYTES = 512 * 1024
"""Bytes of one step as JSON, which escapes what is not ASCII."""
_NULL = str.maketrans({0: "\u2400"})
"""Neither database stores a null character; this one shows that there was one."""


def is_sampled(step: int, steps: int) -> bool:
    """Whether the rollouts of STEP are kept, in a job of STEPS steps.

    The first and the last step are kept, and the steps between at equal distances. That depends on
    nothing else, so an attempt that resumes keeps the same steps.
    """
    distance = -(-steps // (MAX_STEPS - 2))
    return step in (1, steps) or step % distance == 0


def step_rollouts(
    step: int, stale_groups: Sequence[tuple[int, Group]], rendering: Rendering, *, scale: bool
) -> dict[str, Any]:
    """Return the rollouts of STEP to keep.

    Args:
        step: The step that trains on them, from 1.
        stale_groups: Its groups, each with its staleness in steps.
        rendering: Decodes tokens.
        scale: Whether advantages are divided by the standard deviation of the group.
    """
    texts = _Texts(rendering)
    groups = [
        _group(group, staleness, texts, scale=scale)
        for staleness, group in stale_groups[:MAX_GROUPS]
    ]
    found = {"step": step, "groups": groups, "groups_total": len(stale_groups)}
    limit = MAX_CHARACTERS
    texts.cut(limit)
    while len(json.dumps(found)) > MAX_BYTES:
        limit //= 2
        texts.cut(limit)
    return found


@dataclass(slots=True)
class _Text:
    """A text as it was, and the record that holds it or a part of it."""

    whole: str
    record: dict[str, Any]

    def cut(self, length: int) -> None:
        """Leave out the middle of what is longer than LENGTH characters."""
        left_out = max(len(self.whole) - length, 0)
        head = (length + 1) // 2 if left_out else len(self.whole)
        self.record["text"] = self.whole[:head]
        self.record["left_out"] = left_out
        self.record["rest"] = self.whole[head + left_out :]


class _Texts:
    """The texts of a step, which share its limit."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering
        self._texts: list[_Text] = []

    def tokens(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Return the record of the text of TOKENS, with the tokens that control the format."""
        return self.text(self._rendering.decode(list(tokens)))

    def text(self, text: str) -> dict[str, Any]:
        """Return the record of TEXT, which `cut` completes."""
        text = redacted(text).translate(_NULL).encode(errors="replace").decode()
        record: dict[str, Any] = {}
        self._texts.append(_Text(text, record))
        return record

    def cut(self, limit: int) -> None:
        """Cut the longest texts to one length, so that all together have LIMIT characters."""
        left, length = limit, 0
        for number, each in enumerate(sorted(len(text.whole) for text in self._texts)):
            length = left // (len(self._texts) - number)
            if each > length:
                break
            left, length = left - each, each
        for text in self._texts:
            text.cut(length)


def _group(group: Group, staleness: int, texts: _Texts, *, scale: bool) -> dict[str, Any]:
    rewards = group.rewards
    # A degenerate group is not trained on, and differences of a rounding error are none.
    found = [0.0] * len(rewards) if group.degenerate else advantages(rewards, scale=scale)
    prompt = group.prompt
    return {
        "row": prompt.row,
        "dataset": prompt.dataset or None,
        "prompt": texts.tokens(prompt.tokens),
        "expected": None if prompt.expected is None else texts.text(prompt.expected),
        "degenerate": group.degenerate,
        "staleness": staleness,
        "reward_mean": statistics.fmean(rewards),
        "completions": [
            _completion(at, group.rollouts[at], found[at], texts) for at in _spread(rewards)
        ],
        "completions_total": len(rewards),
    }


def _spread(rewards: Sequence[float]) -> list[int]:
    """Return the indices of the completions to keep: of many, at equal distances by reward."""
    if len(rewards) <= MAX_COMPLETIONS:
        return list(range(len(rewards)))
    by_reward = sorted(range(len(rewards)), key=lambda at: rewards[at])
    last = len(rewards) - 1
    return sorted(by_reward[at * last // (MAX_COMPLETIONS - 1)] for at in range(MAX_COMPLETIONS))


def _completion(at: int, rollout: Rollout, advantage: float, texts: _Texts) -> dict[str, Any]:
    turns, half = list(rollout.transcript), MAX_TURNS // 2
    kept = turns if len(turns) <= MAX_TURNS else [*turns[:half], *turns[-half:]]
    return {
        "number": at + 1,
        "reward": rollout.score.value,
        "advantage": advantage,
        "truncated": rollout.truncated,
        "tokens": rollout.sampled_tokens,
        "error": None if rollout.score.error is None else texts.text(rollout.score.error),
        "turns": [
            {"role": turn["role"], "content": texts.text(content_text(turn["content"]))}
            if isinstance(turn, dict)
            else {"role": "assistant", "content": texts.tokens(turn.tolist())}
            for turn in kept
        ],
        "turns_total": len(turns),
    }
