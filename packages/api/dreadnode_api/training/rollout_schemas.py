"""The rollouts of an RL job: what a sandbox reports of a step, and what the API returns."""

from typing import Annotated

from pydantic import Field

from dreadnode_api.http.schemas import Request, Response

MAX_STEP = 2**53
MAX_LISTED = 64
"""Groups of a step, completions of a group and turns of a completion that a request may have."""

_Count = Annotated[int, Field(ge=0, le=MAX_STEP)]


class RolloutText(Request):
    """A text, or its start and its end if it was too long."""

    text: str = Field(description="The text, or its start")
    left_out: _Count = Field(description="Characters that are left out between `text` and `rest`")
    rest: str = Field(description="The end of the text; empty if nothing is left out")


class RolloutTurn(Request):
    """One completion, or a message of the environment between two of them."""

    role: str = Field(max_length=32, description="`assistant` for what the model sampled")
    content: RolloutText


class RolloutCompletion(Request):
    """One rollout of a group, with its score."""

    number: int = Field(ge=1, le=MAX_STEP, description="Its number within the group, from 1")
    reward: float
    advantage: float = Field(description="0 in a degenerate group")
    truncated: bool = Field(description="Whether a turn was cut at its token limit")
    tokens: _Count = Field(description="Tokens that were sampled in all turns")
    error: RolloutText | None = Field(description="The error of the reward's own code")
    turns: list[RolloutTurn] = Field(max_length=MAX_LISTED)
    turns_total: _Count


class RolloutGroup(Request):
    """The rollouts of one prompt."""

    row: _Count = Field(description="Number of the dataset's row, from 1")
    dataset: str | None = Field(max_length=500, description="Its dataset, if there are several")
    prompt: RolloutText = Field(description="What the model was given, with control tokens")
    expected: RolloutText | None = Field(description="The row's expected answer")
    degenerate: bool = Field(description="Whether all rewards are equal: nothing to learn")
    staleness: _Count = Field(description="Steps between the sampling weights and the trained")
    reward_mean: float = Field(description="Of all completions of the group")
    completions: list[RolloutCompletion] = Field(max_length=MAX_LISTED)
    completions_total: _Count


class RolloutsReport(Request):
    """The rollouts of one step, as a sandbox reports them."""

    step: int = Field(ge=1, le=MAX_STEP)
    groups: list[RolloutGroup] = Field(max_length=MAX_LISTED)
    groups_total: _Count


class Rollouts(Response):
    """The rollouts that an RL job has kept of one step, which are a sample.

    Kept are the first and the last step and at most 98 in between, 8 groups of a step and 8
    completions of a group. The texts may have any characters.
    """

    steps: list[int] = Field(description="The steps whose rollouts are kept, in order")
    step: int | None = Field(description="The step of these groups; null before the first step")
    groups: list[RolloutGroup]
    groups_total: int = Field(description="How many groups the step had")
