"""What each step so far was like, and the figures that a job ends with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TOO_HIGH = 3.0
"""How many times its first loss a job's loss may be before it is warned of."""


@dataclass(slots=True)
class History:
    """One entry a step, and one an evaluation; an attempt that goes on starts with what was told.

    Attributes:
        loss: Mean loss of the trained tokens, in nats; NaN where it was never heard.
        sequences: Rows taken in.
        tokens: Positions trained over.
        eval_steps: After which step each evaluation was.
        eval_loss: What it found.
        best_step: The step of the best evaluation; None before the first.
        best_loss: What that found.
        to_beat: The last loss that counted as progress.
        evals_without_progress: Evaluations since then.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    tokens_total: int = 0
    eval_steps: list[int] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float = math.inf
    to_beat: float = math.inf
    evals_without_progress: int = 0

    @classmethod
    def told(
        cls,
        metrics: dict[str, Any],
        steps: int,
        rate: Callable[[int], float],
        min_delta: float = 0.0,
    ) -> "History":
        """Return the first STEPS steps out of a job's METRICS, or as much as they hold.

        Steps after the checkpoint were told too, and are told again: the last word counts.

        Args:
            metrics: As the API holds them.
            steps: How many the checkpoint holds.
            rate: The learning rate of a step, from 1.
            min_delta: By how much an evaluation must be lower to count as progress.
        """
        history = cls()
        names = ("train/loss", "train/num_sequences", "train/num_tokens")
        columns = [_series(metrics, name) for name in names]
        by_step = dict(zip(_series(metrics, "steps"), zip(*columns, strict=False), strict=False))
        for step in range(1, steps + 1):
            loss, sequences, tokens = by_step.get(step, (None, 0, 0))
            history.add(math.nan if loss is None else loss, rate(step), sequences, tokens)
        evals = zip(
            _series(metrics, "eval/steps"), _series(metrics, "eval/loss_history"), strict=False
        )
        for step, loss in sorted(dict(evals).items()):
            if step <= steps:
                history.evaluated(step, loss, min_delta)
        return history

    @property
    def first_loss(self) -> float | None:
        """The first loss that was heard: what all later ones are measured by."""
        return next((loss for loss in self.loss if math.isfinite(loss)), None)

    def is_too_high(self, loss: float) -> bool:
        """Whether LOSS is so far above the first one that the training seems to come apart."""
        return self.first_loss is not None and loss > TOO_HIGH * self.first_loss

    @property
    def evaluated_at(self) -> int | None:
        """The step of the last evaluation."""
        return self.eval_steps[-1] if self.eval_steps else None

    def at(self, step: int) -> dict[str, float]:
        """Return the losses of STEP, as far as they were heard: what its checkpoint shows."""
        found = {"train/loss": self.loss[step - 1]} if 0 < step <= len(self.loss) else {}
        if step in self.eval_steps:
            found["eval/loss"] = self.eval_loss[self.eval_steps.index(step)]
        return {name: loss for name, loss in found.items() if math.isfinite(loss)}

    def add(self, loss: float, learning_rate: float, sequences: int, tokens: int) -> None:
        """Add the next step."""
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.sequences.append(sequences)
        self.tokens.append(tokens)
        self.tokens_total += tokens

    def evaluated(self, step: int, loss: float, min_delta: float) -> bool:
        """Add an evaluation, and return whether it is better than all before it.

        The least improvement makes it the best; progress is one of at least MIN_DELTA.
        """
        self.eval_steps.append(step)
        self.eval_loss.append(loss)
        if math.isinf(self.to_beat) or loss < self.to_beat - min_delta:
            self.to_beat, self.evals_without_progress = loss, 0
        else:
            self.evals_without_progress += 1
        if loss >= self.best_loss:
            return False
        self.best_step, self.best_loss = step, loss
        return True

    def final_metrics(
        self, *, rows: int, rows_per_step: int, accumulation: int, eval_rows: int = 0
    ) -> dict[str, Any]:
        """Return everything that is known of a finished training, whole series included."""
        heard = [loss for loss in self.loss if math.isfinite(loss)]
        steps = len(self.loss)
        metrics: dict[str, Any] = {
            "train/steps": steps,
            "train/num_examples": rows,
            "train/num_sequences_processed": sum(self.sequences),
            "train/num_tokens_processed": self.tokens_total,
            "train/gradient_accumulation_steps": accumulation,
            "train/epochs_completed": steps // -(-rows // rows_per_step),
            "steps": list(range(1, steps + 1)),
            "train/loss": [loss if math.isfinite(loss) else None for loss in self.loss],
            "train/learning_rate": list(self.learning_rate),
            # Without these a repetition of a cancelled job could not go on counting.
            "train/num_sequences": list(self.sequences),
            "train/num_tokens": list(self.tokens),
        }
        metrics["train_loss"] = metrics["train/loss"]
        metrics["learning_rate"] = metrics["train/learning_rate"]
        if heard:
            metrics |= {
                "train/loss_last": heard[-1],
                "train/loss_mean": sum(heard) / len(heard),
                "train/loss_best": min(heard),
            }
        if self.eval_steps:
            metrics |= {
                "eval/num_examples": eval_rows,
                "eval/loss": self.eval_loss[-1],
                "eval/steps": list(self.eval_steps),
                "eval/loss_history": list(self.eval_loss),
            }
        return metrics


def _series(metrics: dict[str, Any], name: str) -> list[Any]:
    value = metrics.get(name)
    return value if isinstance(value, list) else []
