"""What a supervised job does at each optimizer step: its rows, its saves and its evaluations.

The loop follows it, and the check of a job adds up its tokens, so that a price and a training agree
to the token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dreadnode_runtime.data.batching import Batching
from dreadnode_runtime.jobs.config import SftConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        number: From 1.
        rows: Indices of its rows, from 0.
        saves: Whether a checkpoint is due after it.
        evaluates: Whether an evaluation is due after it; the one at the end is not meant.
    """

    number: int
    rows: list[int]
    saves: bool
    evaluates: bool


@dataclass(frozen=True, slots=True)
class SftTokens:
    """Tokens that a job sends: the input of every training pass and of every evaluation pass."""

    training: int
    evaluation: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.training + self.evaluation


class Schedule:
    """The steps of a job on ROWS rows, with or without evaluation data."""

    def __init__(self, config: SftConfig, rows: int, *, evaluates: bool) -> None:
        self._config = config
        self._evaluates = evaluates
        self._batching = Batching(rows, config.rows_per_step(), config.seed, shuffle=config.shuffle)
        self.steps = config.total_steps(rows)

    def after(self, done: int) -> Iterator[Step]:
        """Yield the steps that follow the first DONE ones."""
        for number in range(done + 1, self.steps + 1):
            yield Step(
                number,
                self._batching.batch(number - 1),
                saves=self._due(number, self._config.checkpoint_interval),
                evaluates=self._due(number, self._config.eval_interval),
            )

    @property
    def evaluations(self) -> int:
        """The number of evaluations of a job that does not stop early, with the one at the end."""
        if not self._evaluates:
            return 0
        interval = self._config.eval_interval
        return 1 + (0 if interval is None else (self.steps - 1) // interval)

    def tokens(self, row_tokens: Sequence[int], evaluation: int) -> SftTokens:
        """Return the tokens that a job sends when it runs to its end without interruption.

        Args:
            row_tokens: Input tokens of each row.
            evaluation: Input tokens of the evaluation data.
        """
        training = self._trained(row_tokens, self.steps)
        return SftTokens(training, evaluation * self.evaluations)

    def fewest_tokens(self, row_tokens: Sequence[int], evaluation: int) -> SftTokens:
        """Return the tokens of a job that stops as early as `early_stopping_patience` allows."""
        patience, interval = self._config.early_stopping_patience, self._config.eval_interval
        if patience is None or interval is None:
            return self.tokens(row_tokens, evaluation)
        # The first evaluation is always the best so far.
        evaluations = patience + 1
        steps = evaluations * interval
        if steps >= self.steps:
            return self.tokens(row_tokens, evaluation)
        return SftTokens(self._trained(row_tokens, steps), evaluation * evaluations)

    def _trained(self, row_tokens: Sequence[int], steps: int) -> int:
        epochs, rest = divmod(steps, self._batching.steps_per_epoch)
        tokens = epochs * sum(row_tokens)
        for step in range(steps - rest, steps):
            tokens += sum(row_tokens[row] for row in self._batching.batch(step))
        return tokens

    def _due(self, step: int, interval: int | None) -> bool:
        return interval is not None and step % interval == 0 and step < self.steps
