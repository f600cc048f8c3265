r"""A reward for mathematical answers, with the library math-verify.

Two single numbers are compared exactly, by the reader in `numbers`. Everything else (formulas,
sets, intervals, equations) is compared by math-verify, a maintained library of Hugging Face under
Apache-2.0. It evaluates text of the model with SymPy, so it runs in confined processes with a time
limit.

Without the library (the extra `math`), a row whose expected answer is not a single number cannot be
used, and a completion without one is wrong.
"""

import importlib.util
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import plain
from dreadnode_runtime.rewards.numbers import single_number
from dreadnode_runtime.rewards.recipes import (
    Binary,
    Completion,
    Expected,
    Score,
    expected_text,
    final_number,
)
from dreadnode_runtime.rewards.tex import last_boxed
from dreadnode_runtime.user_code.processes import CodeFailed, Pool

SECONDS = 20.0
"""Time limit of one comparison; math-verify ends its own steps after 5 s."""
MEMORY_MB = 1536
MAX_LENGTH = 20_000
"""Characters at the end of a completion without a `\\boxed{}` in which its answer is searched."""

COMPARE = r"""
from math_verify import parse, verify

def equal(expected, answer, boxed):
    gold = parse("\\boxed{" + expected + "}") or parse(expected)
    found = parse("\\boxed{" + answer + "}") if boxed else parse(answer)
    if not gold:
        return [expected.strip() == answer.strip(), bool(answer.strip())]
    return [bool(found) and bool(verify(gold, found)), bool(found)]
"""
"""Returns whether both answers are equal, and whether the completion has an answer."""


class MathAnswer(Binary):
    r"""Whether the final answer equals the expected one mathematically.

    The final answer is the content of the last `\boxed{}`, else what stands after the last `####`,
    else the last answer of the completion.
    """

    name = "math_v1"
    expected: Expected = None
    processes: Annotated[int, Field(ge=1, le=64)] = 2

    _pool: Pool = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the processes, which start with the first call."""
        self._pool = Pool(
            COMPARE, ["equal"], processes=self.processes, memory_mb=MEMORY_MB, seconds=SECONDS
        )

    def check(self, prompt: Prompt) -> None:
        """Check that the expected answer can be compared here."""
        expected, _ = final_answer(expected_text(self.expected, prompt))
        if not expected.strip():
            raise Unusable("its expected answer is empty")
        if single_number(expected) is None and not is_installed():
            raise Unusable(
                "its expected answer is not a single number, and `math-verify`, which compares "
                "formulas, is not installed on the server"
            )

    async def score(self, completion: Completion) -> Score:
        """Return the reward for an equal answer; a failed comparison counts as wrong."""
        expected, _ = final_answer(expected_text(self.expected, completion.prompt))
        answer, marked = final_answer(completion.text)
        number = single_number(expected)
        found = final_number(completion.text)
        if number is not None and found is not None:
            return Score(self._reward(number.equals(found)))
        # Plain text that is not a single number, such as 12:45, has no formula to compare.
        if not is_installed() or (number is not None and not marked and not {*"$\\"} & {*answer}):
            return Score(self.reward_if_false, extraction_failed=found is None)
        try:
            equal, has_answer = await self._pool.call(
                "equal", expected, answer[-MAX_LENGTH:], marked, number=False
            )
        except CodeFailed as failed:
            return Score(self.reward_if_false, error=f"math-verify: {plain(failed)}")
        return Score(self._reward(equal), extraction_failed=not has_answer)

    async def close(self) -> None:
        """Kill all processes."""
        await self._pool.close()


def is_installed() -> bool:
    """Whether math-verify is installed."""
    return importlib.util.find_spec("math_verify") is not None


def final_answer(text: str) -> tuple[str, bool]:
    """Return the final answer of TEXT, and whether it was marked as such."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed, True
    _, marker, after = text.rpartition("####")
    if marker and after.strip():
        return after.strip().splitlines()[0], True
    return text, False
