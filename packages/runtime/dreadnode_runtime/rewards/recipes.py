"""Reward recipes: what an answer to a prompt is worth, as a function of its parameters.

A recipe is checked when a job is submitted, tried on the first rows before the job exists, and
then asked once for each answer. Those that combine others are in `reward_combinations`; a person's
own function is in `python_reward`.

| recipe | reward |
| --- | --- |
| `row_reward_v1` | the row's `reward`, else `default` |
| `contains_v1` | whether the answer contains `needle` |
| `exact_match_v1` | whether the answer is the expected one, white space at its ends aside |
| `trajectory_imitation_v1` | the same; a match earns the row's `reward`, if it has one |
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

LARGEST = 1e9
"""Of a reward, in size: single precision, in which advantages are learnt from, ends somewhere."""
NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
TOLERANCE = 1e-6

Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


def _expected_text(value: Any) -> Any:
    """Write a number as JSON does, as for a row's answer: 0 is an expected answer."""
    return value if value is None else scalar_text(value)


Expected = Annotated[str | None, BeforeValidator(_expected_text)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt.

    Attributes:
        prompt: What it was asked.
        text: What it said, without its reasoning and its end-of-turn token.
        tokens: How many it sampled.
        truncated: Whether it was cut off at the limit instead of ending by itself.
        state: What became of the environment that it was said in, if there is one.
    """

    prompt: Prompt
    text: str
    tokens: int = 0
    truncated: bool = False
    state: Any = None


@dataclass(frozen=True, slots=True)
class Score:
    """What an answer is worth.

    Attributes:
        value: The reward.
        unread: Whether what is to be judged, such as a final number, was not found in the answer.
        error: What went wrong in a person's own reward, where the job counts that and goes on.
    """

    value: float
    unread: bool = False
    error: str | None = None


class Recipe(BaseModel):
    """A reward with its parameters, which are the fields; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]

    @property
    def reads_answer(self) -> bool:
        """Whether two answers to the same prompt can earn different rewards."""
        return True

    @property
    def parts(self) -> Sequence["Recipe"]:
        """The recipes that it combines."""
        return ()

    def check(self, prompt: Prompt) -> None:
        """Return if answers to PROMPT can be judged.

        Raises:
            Unusable: The row lacks what they are compared with; the text says what.
        """
        for part in self.parts:
            part.check(prompt)

    async def score(self, answer: Answer) -> Score:
        """Return what ANSWER is worth.

        Raises:
            JobFailed: A person's own reward went wrong, and the job does not count that.
        """
        raise NotImplementedError

    async def confinement(self) -> list[str]:
        """Say under which limits a person's own code runs here; nothing if there is none."""
        return [line for part in self.parts for line in await part.confinement()]

    async def close(self) -> None:
        """End what it has started."""
        for part in self.parts:
            await part.close()


async def judge(recipe: Recipe, answer: Answer) -> Score:
    """Return what RECIPE pays for ANSWER.

    Raises:
        JobFailed: It is too much to be learnt from, or a person's own reward went wrong.
    """
    score = await recipe.score(answer)
    if not abs(score.value) <= LARGEST:
        raise JobFailed(
            f"The reward pays {score.value:g} for an answer to {answer.prompt.place}, and must "
            f"stay between {-LARGEST:g} and {LARGEST:g}",
            code="reward",
        )
    return score


class RowReward(Recipe):
    """Pay what the row says, whatever the answer: of use within a combination only."""

    name = "row_reward_v1"
    default: Finite = 0.0

    @property
    def reads_answer(self) -> bool:
        """Never: all answers to a prompt earn the same."""
        return False

    async def score(self, answer: Answer) -> Score:
        """Return the row's reward."""
        paid = answer.prompt.reward
        return Score(self.default if paid is None else paid)


class _Verdict(Recipe):
    reward_if_true: Finite = 1.0
    reward_if_false: Finite = 0.0

    @property
    def reads_answer(self) -> bool:
        """Whether a right answer earns something else than a wrong one."""
        return self.reward_if_true != self.reward_if_false

    def _paid(self, right: bool) -> float:
        return self.reward_if_true if right else self.reward_if_false


class Contains(_Verdict):
    """Pay answers that contain a text, capitals minded."""

    name = "contains_v1"
    needle: Text

    async def score(self, answer: Answer) -> Score:
        """Return what containing the needle is worth, or not containing it."""
        return Score(self._paid(self.needle in answer.text))


class ExactMatch(Recipe):
    """Pay 1 for the expected answer, white space at the ends aside, and else 0."""

    name = "exact_match_v1"
    expected: Expected = None

    def check(self, prompt: Prompt) -> None:
        """Return if there is an expected answer."""
        _expected(self.expected, prompt)

    async def score(self, answer: Answer) -> Score:
        """Return 1 for a match."""
        expected = _expected(self.expected, answer.prompt)
        return Score(float(answer.text.strip() == expected.strip()))


class TrajectoryImitation(_Verdict):
    """Pay for saying what the trajectory says at this turn."""

    name = "trajectory_imitation_v1"

    @property
    def reads_answer(self) -> bool:
        """Always: the row may pay for a match."""
        return True

    def check(self, prompt: Prompt) -> None:
        """Return if the trajectory says something here."""
        _expected(None, prompt)

    async def score(self, answer: Answer) -> Score:
        """Return the row's reward for a match."""
        right = answer.text.strip() == _expected(None, answer.prompt).strip()
        if right and answer.prompt.reward is not None:
            return Score(answer.prompt.reward)
        return Score(self._paid(right))


class Gsm8k(_Verdict):
    """Pay for the right final number: the last one after `####`, else the last one of all."""

    name = "gsm8k_v1"
    expected: Expected = None

    def check(self, prompt: Prompt) -> None:
        """Return if the expected answer holds a number."""
        if final_number(_expected(self.expected, prompt)) is None:
            raise Unusable("its expected answer holds no number")

    async def score(self, answer: Answer) -> Score:
        """Return what the right number is worth; an answer without one is a wrong one."""
        found = final_number(answer.text)
        wanted = final_number(_expected(self.expected, answer.prompt))
        right = found is not None and wanted is not None and abs(found - wanted) <= TOLERANCE
        return Score(self._paid(right), unread=found is None)


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
