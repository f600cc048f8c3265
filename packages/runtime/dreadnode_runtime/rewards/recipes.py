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

A completion whose reasoning never ended has no answer: no recipe scores it, and it gets the reward
of `Recipe.score_unfinished`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dreadnode_runtime.data.normal_form import Unusable, scalar_text
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.numbers import (
    Number,
    first_number,
    has_digits,
    last_number,
    single_number,
)
from dreadnode_runtime.rewards.tex import last_boxed

MAX_REWARD = 1e9
"""Largest absolute value of a reward: advantages are computed in single precision."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonEmptyString = Annotated[str, Field(min_length=1)]


def _json_text(value: Any) -> Any:
    """Write a number as JSON does, as in a row: 0 is an expected completion too."""
    return value if value is None else scalar_text(value)


Expected = Annotated[str | None, BeforeValidator(_json_text)]


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled completion, as a reward sees it.

    Attributes:
        prompt: The prompt.
        text: The answer: without reasoning, end tokens and stop strings.
        tokens: Number of sampled tokens.
        truncated: Whether it was cut at the token limit.
        state: Final state of the environment, if there is one.
        unfinished: Whether the reasoning never ended, so that there is no answer.
    """

    prompt: Prompt
    text: str
    tokens: int = 0
    truncated: bool = False
    state: Any = None
    unfinished: bool = False


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

    def score_unfinished(self, completion: Completion) -> Score:
        """Return the reward of a COMPLETION whose reasoning never ended: 0, unless overridden."""
        return Score(0.0, extraction_failed=True)

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
    if completion.unfinished:
        score = recipe.score_unfinished(completion)
    else:
        score = await recipe.score(completion)
    if not abs(score.value) <= MAX_REWARD:
        raise JobFailed(
            f"The reward of a completion for {completion.prompt.place} is {score.value:g}, and "
            f"must be between {-MAX_REWARD:g} and {MAX_REWARD:g}",
            code="reward",
        )
    return score


class RowReward(Recipe):
    """The row's own reward, the same for every completion: useful only in a combination."""

    name = "row_reward_v1"
    default: Finite = 0.0

    @property
    def depends_on_completion(self) -> bool:
        """Never: all completions of a prompt get the same reward."""
        return False

    async def score(self, completion: Completion) -> Score:
        """Return the row's reward."""
        return self.score_unfinished(completion)

    def score_unfinished(self, completion: Completion) -> Score:
        """Return the row's reward."""
        reward = completion.prompt.reward
        return Score(self.default if reward is None else reward)


class Binary(Recipe):
    """One reward for a correct completion, another for a wrong one."""

    reward_if_true: Finite = 1.0
    reward_if_false: Finite = 0.0

    @property
    def depends_on_completion(self) -> bool:
        """Whether the two rewards differ."""
        return self.reward_if_true != self.reward_if_false

    def score_unfinished(self, completion: Completion) -> Score:
        """Return the reward of a wrong completion."""
        return Score(self.reward_if_false, extraction_failed=True)

    def _reward(self, correct: bool) -> float:
        return self.reward_if_true if correct else self.reward_if_false


class Contains(Binary):
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
        expected_text(self.expected, prompt)

    async def score(self, completion: Completion) -> Score:
        """Return 1 for a match."""
        expected = expected_text(self.expected, completion.prompt)
        return Score(float(completion.text.strip() == expected.strip()))


class TrajectoryImitation(Binary):
    """Whether the completion equals the trajectory's message at this turn."""

    name = "trajectory_imitation_v1"

    @property
    def depends_on_completion(self) -> bool:
        """Always: the row can have a reward for a match."""
        return True

    def check(self, prompt: Prompt) -> None:
        """Check that the trajectory has a message at this turn."""
        expected_text(None, prompt)

    async def score(self, completion: Completion) -> Score:
        """Return the row's reward for a match."""
        correct = completion.text.strip() == expected_text(None, completion.prompt).strip()
        if correct and completion.prompt.reward is not None:
            return Score(completion.prompt.reward)
        return Score(self._reward(correct))


class Gsm8k(Binary):
    r"""Whether the final number is the expected one.

    The final number is the first after `####`, else the one in the last `\boxed{}`, else the last
    of the completion. Numbers are compared exactly: see `numbers` for the forms that are read.
    """

    name = "gsm8k_v1"
    expected: Expected = None

    def check(self, prompt: Prompt) -> None:
        """Check that the expected completion has a number."""
        if final_number(expected_text(self.expected, prompt)) is None:
            raise Unusable("its expected answer is not a single number")

    async def score(self, completion: Completion) -> Score:
        """Return the reward for the right number; a completion without a number is wrong."""
        found = final_number(completion.text)
        expected = final_number(expected_text(self.expected, completion.prompt))
        correct = found is not None and expected is not None and found.equals(expected)
        return Score(self._reward(correct), extraction_failed=found is None)


def final_number(text: str) -> Number | None:
    """Return the number that TEXT ends with, as `Gsm8k` says; None if it is not a single one."""
    _, marker, after = text.rpartition("####")
    if marker and has_digits(after):
        return first_number(after)
    boxed = last_boxed(text)
    return last_number(text) if boxed is None else single_number(boxed)


def expected_text(own: str | None, prompt: Prompt) -> str:
    """Return the expected completion: the recipe's OWN, else the row's.

    Raises:
        Unusable: There is none.
    """
    expected = own if own is not None else prompt.expected
    # An answer that only calls tools has no text, and silence must not be rewarded.
    if expected is None or (own is None and not expected.strip()):
        raise Unusable("no expected answer")
    return expected
