"""Rollouts of RL jobs: what the API returns for one step."""

from __future__ import annotations

from pydantic import Field

from dreadnode.wire import Response


class RolloutText(Response):
    """A text; of one that was too long, its start and its end.

    Attributes:
        text: The text, or its start.
        left_out: The number of characters that are left out.
        rest: The end of the text, if some are.
    """

    text: str
    left_out: int = 0
    rest: str = ""

    def __str__(self) -> str:
        if not self.left_out:
            return self.text
        return f"{self.text}\n… {self.left_out:,} characters left out …\n{self.rest}"


class RolloutTurn(Response):
    """One completion, whose `role` is assistant, or a message of the environment."""

    role: str
    content: RolloutText


class RolloutCompletion(Response):
    """One rollout of a group.

    Attributes:
        number: Its number within the group, from 1.
        reward: Its reward.
        advantage: The advantage of its tokens; 0 in a degenerate group.
        truncated: Whether a turn was cut at its token limit.
        tokens: Tokens that were sampled in all turns.
        error: The error of the reward's own code, if it failed.
        turns: The completions, with the messages of the environment in between.
        turns_total: How many turns there were; `turns` has the first and the last of many.
    """

    number: int
    reward: float
    advantage: float
    truncated: bool = False
    tokens: int = 0
    error: RolloutText | None = None
    turns: list[RolloutTurn] = Field(default_factory=list)
    turns_total: int = 0


class RolloutGroup(Response):
    """The rollouts of one prompt.

    Attributes:
        row: The number of its row in the dataset, from 1.
        dataset: The dataset, if the job has several.
        prompt: The tokens that the model was given, as text.
        expected: The row's expected answer, if it has one.
        degenerate: Whether all rewards are equal, so that there is nothing to learn.
        staleness: Steps between the weights that sampled and those that are trained.
        reward_mean: The mean reward of all its completions, which is their baseline.
        completions: Some of its completions.
        completions_total: How many completions the group had.
    """

    row: int
    dataset: str | None = None
    prompt: RolloutText
    expected: RolloutText | None = None
    degenerate: bool = False
    staleness: int = 0
    reward_mean: float
    completions: list[RolloutCompletion] = Field(default_factory=list)
    completions_total: int = 0


class Rollouts(Response):
    """The rollouts that a job has kept of one step, which are a sample.

    Attributes:
        steps: The steps whose rollouts are kept.
        step: The step of these groups; None before the first step.
        groups: Some groups of the step.
        groups_total: How many groups the step had.
    """

    steps: list[int]
    step: int | None = None
    groups: list[RolloutGroup] = Field(default_factory=list)
    groups_total: int = 0
