"""Reward recipes: the reward of a completion, as a function of the recipe's parameters.

A recipe is validated when a job is submitted, tried on the first rows before the job exists, and
called once for each completion. `combinations` has the recipes that combine others, `python_reward`
the user's own function.

| recipe | reward |
| --- | --- |
| `row_reward_v1` | the row's `reward`, else `default` |
| `contains_v1` | whether the completion contains `needle` |
| `exact_match_v1` | whether the completion equals the expected one, surrounding white space aside |
| `trajectory_imitation_v1` | the same; a match gets the row's `reward`, if it has one |
| `gsm8k_v1` | whether the final number is the expected one |
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dreadnode_runtime.data.normal_form import Unusable, scalar_text
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed

MAX_REWARD = 1e9
"""Largest absolute value of a reward: advantages are computed in single precision."""
NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
TOLERANCE = 1e-6

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonEmptyString = Annotated[str, Field(min_length=1)]


def _expected_text(value: Any) -> Any:
    """Write a number as JSON does, as in a row: 0 is an expected completion too."""
    return value if value is None else scalar_text(value)


Expected = Annotated[str | None, BeforeValidator(_expected_text)]


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled completion, as a reward sees it.

    Attributes:
        prompt: The prompt.
        text: The completion without reasoning and end tokens.
        tokens: Number of sampled tokens.
        truncated: Whether it was cut at the token limit.
        state: Final state of the environment, if there is one.
    """

    prompt: Prompt
    text: str
    tokens: int = 0
    truncated: bool = False
    state: Any = None


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of a completion.

    Attributes:
        value: The reward.
        extraction_failed: Whether the value to score, such as a final number, was not found.
        error: The error of a user's own reward, if the job counts errors instead of failing.
    """

    value: float
    extraction_failed: bool = False
    error: str | None = None


class Recipe(BaseModel):
    """A reward; its fields are its parameters, and unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]

    @property
    def depends_on_completion(self) -> bool:
        """Whether two completions of the same prompt can get different rewards."""
        return True

    @property
    def parts(self) -> Sequence["Recipe"]:
        """The recipes that it combines."""
        return ()

    def check(self, prompt: Prompt) -> None:
        """Check that completions of PROMPT can be scored.

        Raises:
            Unusable: The row lacks the value to compare with; the text says which.
        """
        for part in self.parts:
            part.check(prompt)

    async def score(self, completion: Completion) -> Score:
        """Return the reward of COMPLETION.

        Raises:
            JobFailed: A user's own reward failed, and the job does not count errors.
        """
        raise NotImplementedError

    async def confinement(self) -> list[str]:
        """Return the limits under which user code runs here; none without user code."""
        return [line for part in self.parts for line in await part.confinement()]

    async def close(self) -> None:
        """End the processes that it started."""
        for part in self.parts:
            await part.close()


async def score_completion(recipe: Recipe, completion: Completion) -> Score:
    """Return RECIPE's reward of COMPLETION.

    Raises:
        JobFailed: The reward is too large, or a user's own reward failed.
    """
    score = await recipe.score(completion)
    if not abs(score.value) <= MAX_REWARD:
        raise JobFailed(
            f"The reward of a completion for {completion.prompt.place} is {score.value:g}, and "
            f"must be between {-MAX_REWARD:g} and {MAX_REWARD:g}",
            code="reward",
        )
    return score


class RowReward(Recipe):
    """The row's own reward, whatever the completion: useful only in a combination."""

    name = "row_reward_v1"
    default: Finite = 0.0

    @property
    def depends_on_completion(self) -> bool:
        """Never: all completions of a prompt get the same reward."""
        return False

    async def score(self, completion: Completion) -> Score:
        """Return the row's reward."""
        reward = completion.prompt.reward
        return Score(self.default if reward is None else reward)


class _Binary(Recipe):
    """One reward for a correct completion, another for a wrong one."""

    reward_if_true: Finite = 1.0
    reward_if_false: Finite = 0.0

    @property
    def depends_on_completion(self) -> bool:
        """Whether the two rewards differ."""
        return self.reward_if_true != self.reward_if_false

    def _reward(self, correct: bool) -> float:
        return self.reward_if_true if correct else self.reward_if_false


class Contains(_Binary):
    """Whether the completion contains a string; case matters."""

    name = "contains_v1"
    needle: NonEmptyString

    async def score(self, completion: Completion) -> Score:
        """Return the reward for containing the string or not."""
        return Score(self._reward(self.needle in completion.text))


class ExactMatch(Recipe):
    """1 if the completion equals the expected one, without surrounding white space; else 0."""

    name = "exact_match_v1"
    expected: Expected = None

    def check(self, prompt: Prompt) -> None:
        """Check that there is an expected completion."""
        _expected(self.expected, prompt)

    async def score(self, completion: Completion) -> Score:
        """Return 1 for a match."""
        expected = _expected(self.expected, completion.prompt)
        return Score(float(completion.text.strip() == expected.strip()))


class TrajectoryImitation(_Binary):
    """Whether the completion equals the trajectory's message at this turn."""

    name = "trajectory_imitation_v1"

    @property
    def depends_on_completion(self) -> bool:
        """Always: the row can have a reward for a match."""
        return True

    def check(self, prompt: Prompt) -> None:
        """Check that the trajectory has a message at this turn."""
        _expected(None, prompt)

    async def score(self, completion: Completion) -> Score:
        """Return the row's reward for a match."""
        correct = completion.text.strip() == _expected(None, completion.prompt).strip()
        if correct and completion.prompt.reward is not None:
            return Score(completion.prompt.reward)
        return Score(self._reward(correct))


class Gsm8k(_Binary):
    """Whether the final number is the expected one: the last after `####`, else the last of all."""

    name = "gsm8k_v1"
    expected: Expected = None

    def check(self, prompt: Prompt) -> None:
        """Check that the expected completion has a number."""
        if final_number(_expected(self.expected, prompt)) is None:
            raise Unusable("its expected answer has no number")

    async def score(self, completion: Completion) -> Score:
        """Return the reward for the right number; a completion without a number is wrong."""
        found = final_number(completion.text)
        expected = final_number(_expected(self.expected, completion.prompt))
        correct = found is not None and expected is not None and abs(found - expected) <= TOLERANCE
        return Score(self._reward(correct), extraction_failed=found is None)


def final_number(text: str) -> float | None:
    """Return the last number after the last `####` of TEXT, else the last of all, if any."""
    _, marked, after = text.rpartition("####")
    for part in (after, text) if marked else (text,):
        if found := NUMBER.findall(part):
            number = float(found[-1].replace(",", ""))
            return number if math.isfinite(number) else None
    return None


def _expected(own: str | None, prompt: Prompt) -> str:
    expected = own if own is not None else prompt.expected
    if expected is None:
        raise Unusable("no expected answer")
    return expected
