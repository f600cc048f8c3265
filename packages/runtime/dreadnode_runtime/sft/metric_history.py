"""The metrics of each step, and the final metrics of a supervised job."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LOSS_WARNING_FACTOR = 3.0
"""A loss above this multiple of the first loss causes a warning."""


@dataclass(slots=True)
class History:
    """One entry for each step and each evaluation; a resumed attempt starts with the earlier ones.

    Attributes:
        loss: Mean loss of the trained tokens, in nats; NaN where it is unknown.
        sequences: Rows in the step.
        tokens: Tokens processed.
        tokens_total: Tokens processed in all steps.
        eval_steps: The step of each evaluation.
        eval_loss: Its loss.
        best_step: The step of the best evaluation; None before the first.
        best_loss: Its loss.
        to_beat: The last evaluation loss that counted as progress.
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
    def from_metrics(
        cls,
        metrics: dict[str, Any],
        steps: int,
        rate: Callable[[int], float],
        min_delta: float = 0.0,
    ) -> "History":
        """Return the first STEPS steps of a job's METRICS, as far as they are known.

        An earlier attempt can have reported steps after its last checkpoint, which this attempt
        repeats: of several values for one step, the last counts.

        Args:
            metrics: The job's metrics, from the API.
            steps: The step of the checkpoint.
            rate: Returns the learning rate of a step, from 1.
            min_delta: Minimum decrease of the evaluation loss that counts as progress.
        """
        history = cls()
        names = ("train/loss", "train/num_sequences", "train/num_tokens")
        columns = [_values(metrics, name) for name in names]
        by_step = dict(zip(_values(metrics, "steps"), zip(*columns, strict=False), strict=False))
        for step in range(1, steps + 1):
            loss, sequences, tokens = by_step.get(step, (None, 0, 0))
            history.add(math.nan if loss is None else loss, rate(step), sequences, tokens)
        evals = zip(
            _values(metrics, "eval/steps"), _values(metrics, "eval/loss_history"), strict=False
        )
        for step, loss in sorted(dict(evals).items()):
            if step <= steps:
                history.add_evaluation(step, loss, min_delta)
        return history

    @property
    def first_loss(self) -> float | None:
        """The first known loss, to which later ones are compared."""
        return next((loss for loss in self.loss if math.isfinite(loss)), None)

    def is_too_high(self, loss: float) -> bool:
        """Whether LOSS is so far above the first loss that the training seems to diverge."""
        return self.first_loss is not None and loss > LOSS_WARNING_FACTOR * self.first_loss

    @property
    def evaluated_at(self) -> int | None:
        """The step of the last evaluation."""
        return self.eval_steps[-1] if self.eval_steps else None

    def at(self, step: int) -> dict[str, float]:
        """Return the known losses of STEP, for its checkpoint."""
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

    def add_evaluation(self, step: int, loss: float, min_delta: float) -> bool:
        """Add an evaluation, and return whether it is the best so far.

        Any decrease makes it the best; a decrease of more than MIN_DELTA counts as progress.
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
        """Return the final metrics of the job, with the value of each step."""
        known = [loss for loss in self.loss if math.isfinite(loss)]
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
            # A retry of a cancelled job continues these counts.
            "train/num_sequences": list(self.sequences),
            "train/num_tokens": list(self.tokens),
        }
        metrics["train_loss"] = metrics["train/loss"]
        metrics["learning_rate"] = metrics["train/learning_rate"]
        if known:
            metrics |= {
                "train/loss_last": known[-1],
                "train/loss_mean": sum(known) / len(known),
                "train/loss_best": min(known),
            }
        if self.eval_steps:
            metrics |= {
                "eval/num_examples": eval_rows,
                "eval/loss": self.eval_loss[-1],
                "eval/steps": list(self.eval_steps),
                "eval/loss_history": list(self.eval_loss),
            }
        return metrics


def _values(metrics: dict[str, Any], name: str) -> list[Any]:
    value = metrics.get(name)
    return value if isinstance(value, list) else []
