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

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.rewards.recipes import MAX_REWARD, Completion, Finite, Recipe, Score
from dreadnode_runtime.user_code.processes import (
    CodeFailed,
    Megabytes,
    Pool,
    Processes,
    Seconds,
    Source,
    check_allowed,
)


class PythonReward(Recipe):
    """The number that a user's own function returns."""

    name = "python_v1"
    source: Source
    function: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")] = "reward"
    timeout_sec: Seconds = 10.0
    memory_mb: Megabytes = 1024
    processes: Processes = 2
    on_error: Literal["fail", "count"] = "fail"
    reward_on_error: Finite = 0.0
    reward_if_unfinished: Finite = 0.0

    _pool: Pool | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _allowed(self) -> "PythonReward":
        check_allowed()
        return self

    async def score(self, completion: Completion) -> Score:
        """Return the function's result for COMPLETION.

        Raises:
            JobFailed: The function failed, and `on_error` is `fail`.
        """
        row = dict(completion.prompt.data)
        if completion.state is not None:
            row["environment_state"] = completion.state
        try:
            return Score(_bounded(await self._workers().call(self.function, completion.text, row)))
        except CodeFailed as failed:
            if self.on_error == "count":
                return Score(self.reward_on_error, error=plain(failed))
            raise JobFailed(
                f"The reward function failed on a completion for {completion.prompt.place}: "
                f"{plain(failed)}",
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
            return await self._workers().confined()
        except CodeFailed as failed:
            raise JobFailed(
                f"The reward function cannot be loaded: {plain(failed)}", code="reward"
            ) from failed

    async def close(self) -> None:
        """Kill all processes."""
        if self._pool is not None:
            await self._pool.close()

    def _workers(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(
                self.source,
                [self.function],
                processes=self.processes,
                memory_mb=self.memory_mb,
                seconds=self.timeout_sec,
            )
        return self._pool


def _bounded(value: float) -> float:
    if abs(value) > MAX_REWARD:
        raise CodeFailed(f"it returned {value:g}, outside -{MAX_REWARD:g} to {MAX_REWARD:g}")
    return float(value)
