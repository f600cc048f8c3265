"""A user's own reward: a Python function, run in confined processes.

The source defines `reward(completion, row)`: it gets the completion's text and the dataset's row as
a dictionary, and returns a finite number. After an environment's episode the row also holds the
state, as `environment_state`.

| the function | result |
| --- | --- |
| raises, exits, returns something other than a number from -1e9 to 1e9 | an error |
| takes longer than `timeout_sec` | an error; its process is killed and replaced |
| needs more than `memory_mb` | `MemoryError`, in the function |
| prints more than 1 MiB in one call | an error |
| exits its process | an error; the process is replaced |

An error fails the job with the row's number. With `on_error: count` the completion gets
`reward_on_error` instead, and the error is counted in `train/reward_errors`. The function never
gets a completion whose reasoning did not end: that one gets `reward_if_unfinished`.
"""

import ast
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.rewards.recipes import MAX_REWARD, Completion, Finite, Recipe, Score
from dreadnode_runtime.user_code.processes import (
    CodeFailed,
    Filename,
    Megabytes,
    Pool,
    Processes,
    Seconds,
    Source,
    check_allowed,
)

EXCERPT_LENGTH = 80
"""Characters of a completion in an error message."""


class PythonReward(Recipe):
    """The number that a user's own function returns."""

    name = "python_v1"
    source: Source
    filename: Filename = "reward.py"
    function: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")] = "reward"
    timeout_sec: Seconds = 10.0
    memory_mb: Megabytes = 1024
    processes: Processes = 2
    on_error: Literal["fail", "count"] = "fail"
    reward_on_error: Finite = 0.0
    reward_if_unfinished: Finite = 0.0
    allow_constant: bool = False

    _pool: Pool = PrivateAttr()

    @model_validator(mode="after")
    def _allowed(self) -> "PythonReward":
        check_allowed()
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the processes, which start with the first call."""
        self._pool = Pool(
            self.source,
            [self.function],
            processes=self.processes,
            memory_mb=self.memory_mb,
            seconds=self.timeout_sec,
            filename=self.filename,
        )

    @property
    def depends_on_completion(self) -> bool:
        """Whether the function uses its first argument, as far as its source shows that."""
        return uses_first_argument(self.source, self.function)

    async def score(self, completion: Completion) -> Score:
        """Return the function's result for COMPLETION.

        Raises:
            JobFailed: The function failed, and `on_error` is `fail`.
        """
        row = dict(completion.prompt.data)
        if completion.state is not None:
            row["environment_state"] = completion.state
        try:
            return Score(_bounded(await self._pool.call(self.function, completion.text, row)))
        except CodeFailed as failed:
            if self.on_error == "count":
                error = f"on `{_excerpt(completion.text)}`, {plain(failed)}"
                return Score(self.reward_on_error, error=error)
            raise JobFailed(
                f"The reward function failed on a completion for {completion.prompt.place}, "
                f"`{_excerpt(completion.text)}`: {plain(failed)}",
                code="reward",
            ) from failed

    def score_unfinished(self, completion: Completion) -> Score:
        """Return `reward_if_unfinished`."""
        return Score(self.reward_if_unfinished, extraction_failed=True)

    async def confinement(self) -> list[str]:
        """Load the source, and return the limits that hold for it.

        Raises:
            JobFailed: The source cannot be loaded.
        """
        try:
            return await self._pool.confined()
        except CodeFailed as failed:
            raise JobFailed(
                f"The reward function cannot be loaded: {plain(failed)}", code="reward"
            ) from failed

    async def close(self) -> None:
        """Kill all processes."""
        await self._pool.close()


def uses_first_argument(source: str, name: str) -> bool:
    """Whether the function NAME of SOURCE reads its first argument; True if that is not clear."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return True
    functions = [each for each in body if isinstance(each, ast.FunctionDef) and each.name == name]
    arguments = functions[-1].args if functions else None
    names = [] if arguments is None else [*arguments.posonlyargs, *arguments.args]
    if not names or functions[-1].decorator_list:
        return True
    read = {
        node.id
        for node in ast.walk(functions[-1])
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return bool({names[0].arg, "locals", "vars", "eval", "exec"} & read)


def _excerpt(text: str) -> str:
    """Return the start of TEXT in one line, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_LENGTH else f"{line[:EXCERPT_LENGTH]} …"


def _bounded(value: float) -> float:
    if abs(value) > MAX_REWARD:
        raise CodeFailed(f"it returned {value:g}, outside -{MAX_REWARD:g} to {MAX_REWARD:g}")
    return float(value)
