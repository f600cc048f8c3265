"""A person's own reward: a Python function, run in confined processes of its own.

The source defines `reward(answer, row)`: the answer's text and the dataset's row, as a dictionary,
to a finite number. After an environment's episode the row holds its state as `environment_state`.

| what the function does | what comes of it |
| --- | --- |
| raises, exits, returns no finite number, or one above 1e9 in size | an error |
| takes longer than `timeout_sec` | an error; its process is ended and replaced |
| wants more than `memory_mb` | `MemoryError`, in the function |
| prints more than 1 MiB in one call | an error |
| ends its process | an error; the process is replaced |

An error fails the job with the row's number, or, with `on_error` `count`, earns `reward_on_error`
and is counted in `train/reward_errors`.
"""

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.rewards.recipes import LARGEST, Answer, Finite, Recipe, Score
from dreadnode_runtime.user_code.processes import CodeFailed, Pool, must_be_allowed

Source = Annotated[str, Field(min_length=1, max_length=200_000)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Megabytes = Annotated[int, Field(ge=128, le=65_536)]
Processes = Annotated[int, Field(ge=1, le=64)]


class PythonReward(Recipe):
    """Pay what a person's own function says."""

    name = "python_v1"
    source: Source
    function: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")] = "reward"
    timeout_sec: Seconds = 10.0
    memory_mb: Megabytes = 1024
    processes: Processes = 2
    on_error: Literal["fail", "count"] = "fail"
    reward_on_error: Finite = 0.0

    _pool: Pool | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _allowed(self) -> "PythonReward":
        must_be_allowed()
        return self

    async def score(self, answer: Answer) -> Score:
        """Return what the function says of ANSWER.

        Raises:
            JobFailed: It went wrong, and the job does not count that.
        """
        row = dict(answer.prompt.data)
        if answer.state is not None:
            row["environment_state"] = answer.state
        try:
            return Score(_bounded(await self._workers().call(self.function, answer.text, row)))
        except CodeFailed as failed:
            if self.on_error == "count":
                return Score(self.reward_on_error, error=plain(failed))
            raise JobFailed(
                f"The reward function failed on an answer to {answer.prompt.place}: "
                f"{plain(failed)}",
                code="reward",
            ) from failed

    async def confinement(self) -> list[str]:
        """Load the source, and say under which limits it runs.

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
        """End all processes."""
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
    if abs(value) > LARGEST:
        raise CodeFailed(f"it returned {value:g}, above {LARGEST:g} in size")
    return float(value)
