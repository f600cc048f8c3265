"""The supervised loop, top to bottom.

Tinker adds losses up over tokens. Each row's weights add up to 1 here, as in tinker-cookbook's
supervised loop, so a step's gradient is the sum over its rows of each row's mean loss: a learning
rate that suits one suits the other. `train/loss` is another figure: the mean loss, in nats, of the
step's trained tokens, each counted once, before the step's update.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dreadnode_runtime.config import SftConfig
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.order import Order
from dreadnode_runtime.rendering import Example
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.trainer import Trainer

AHEAD = 1
"""Steps submitted before the oldest one is awaited: the engine never waits for this process."""


@dataclass(slots=True)
class History:
    """What each step so far was like; a resumed attempt starts with what was told before."""

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def told(cls, metrics: dict[str, Any], steps: int, learning_rate: float) -> "History":
        """Return the first STEPS steps out of a job's METRICS, or as much as they hold.

        Steps after the checkpoint were told too, and are told again: the last word counts.
        """
        history = cls()
        names = ("train/loss", "train/num_sequences", "train/num_tokens")
        columns = [metrics.get(name) or [] for name in names]
        by_step = dict(zip(metrics.get("steps") or [], zip(*columns, strict=False), strict=False))
        for step in range(1, steps + 1):
            loss, sequences, tokens = by_step.get(step, (math.nan, 0, 0))
            history.add(loss, learning_rate, sequences, tokens)
        return history

    def add(self, loss: float, learning_rate: float, sequences: int, tokens: int) -> None:
        """Add the next step."""
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.sequences.append(sequences)
        self.tokens.append(tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        rows: The sequences of each usable row.
        steps: Optimizer steps in all.
        start: Optimizer steps that a checkpoint already holds.
        checkpoints: Paths of the checkpoints that earlier attempts made, oldest first.
    """

    config: SftConfig
    rows: Sequence[Sequence[Example]]
    steps: int
    start: int = 0
    checkpoints: Sequence[str] = ()


@dataclass(slots=True)
class Outcome:
    """How far training came.

    Attributes:
        step: Optimizer steps done in all.
        checkpoints: Paths of all checkpoints, oldest first.
        saved_at: Step of the newest of them, or of the one that was resumed from.
    """

    step: int
    saved_at: int
    checkpoints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Submitted:
    step: int
    batch: list[list[Example]]
    rows: int
    learning_rate: float
    losses: "asyncio.Future[list[float]]"

    def cancel(self) -> None:
        """Wait no longer for it."""
        self.losses.cancel()


@dataclass(frozen=True, slots=True)
class _Saving:
    step: int
    path: "asyncio.Future[str]"

    def cancel(self) -> None:
        """Wait no longer for it."""
        self.path.cancel()


async def train(
    plan: Plan, trainer: Trainer, reporter: Reporter, stop: Stop, history: History
) -> Outcome:
    """Take PLAN's steps, telling each, and return how far they went.

    A step is a forward-backward for each micro-batch and one update, submitted together; a
    checkpoint is queued behind its step, so nothing waits for it. Ends early when STOP says so.

    Raises:
        JobFailed: The loss is no number any more.
    """
    config = plan.config
    order = Order(len(plan.rows), config.rows_per_step(), config.seed)
    outcome = Outcome(plan.start, saved_at=plan.start, checkpoints=list(plan.checkpoints))
    queue: deque[_Submitted | _Saving] = deque()
    begun = time.monotonic()

    async def settle(keep: int) -> None:
        """Await what was submitted, oldest first, until KEEP steps are still on their way."""
        while sum(isinstance(work, _Submitted) for work in queue) > keep or (keep == 0 and queue):
            work = queue.popleft()
            if isinstance(work, _Saving):
                _tell_checkpoint(work.step, await work.path, outcome, reporter)
                continue
            loss = _mean_loss(work, await work.losses, outcome)
            tokens = sum(len(e.tokens) - 1 for passed in work.batch for e in passed)
            history.add(loss, work.learning_rate, work.rows, tokens)
            outcome.step = work.step
            pace = (time.monotonic() - begun) / (work.step - plan.start)
            reporter.tell(
                "step_complete",
                metrics={
                    "steps": [work.step],
                    "train/loss": [loss],
                    "train/num_sequences": [work.rows],
                    "train/num_tokens": [tokens],
                },
                data={
                    "step": work.step,
                    "steps": plan.steps,
                    "tokens_total": sum(history.tokens),
                    "seconds_left": round(pace * (plan.steps - work.step), 1),
                },
            )

    stop.training = True
    reporter.phase("training")
    try:
        for step in range(plan.start + 1, plan.steps + 1):
            if stop.requested:
                break
            picked = order.batch(step - 1)
            batch = [
                [e for row in picked[at : at + config.batch_size] for e in plan.rows[row]]
                for at in range(0, len(picked), config.batch_size)
            ]
            losses = asyncio.ensure_future(trainer.submit(batch, config.learning_rate))
            queue.append(_Submitted(step, batch, len(picked), config.learning_rate, losses))
            if step % config.checkpoint_interval == 0 and step < plan.steps:
                saved = asyncio.ensure_future(trainer.save(checkpoint_name(step)))
                queue.append(_Saving(step, saved))
            await settle(keep=AHEAD)
        await settle(keep=0)
    finally:
        for work in queue:
            work.cancel()
    if stop.requested and outcome.step > outcome.saved_at:
        reporter.phase("saving")
        path = await trainer.save(checkpoint_name(outcome.step))
        _tell_checkpoint(outcome.step, path, outcome, reporter)
    return outcome


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after STEP steps."""
    return f"step-{step:06d}"


def step_of_checkpoint(path: str) -> int:
    """Return how many steps the checkpoint at PATH holds.

    Raises:
        ValueError: It is not one of ours.
    """
    prefix, _, step = path.rpartition("/")[2].partition("-")
    if prefix != "step":
        raise ValueError(f"`{path}` does not name a step")
    return int(step)


def final_metrics(plan: Plan, outcome: Outcome, history: History) -> dict[str, Any]:
    """Return everything that is known of a finished training, whole series included."""
    finite = [loss for loss in history.loss if math.isfinite(loss)]
    per_epoch = -(-len(plan.rows) // plan.config.rows_per_step())
    metrics: dict[str, Any] = {
        "train/steps": outcome.step,
        "train/num_examples": len(plan.rows),
        "train/num_sequences_processed": sum(history.sequences),
        "train/num_tokens_processed": sum(history.tokens),
        "train/gradient_accumulation_steps": plan.config.gradient_accumulation_steps,
        "train/epochs_completed": outcome.step // per_epoch,
        "steps": list(range(1, len(history.loss) + 1)),
        "train/loss": [loss if math.isfinite(loss) else None for loss in history.loss],
        "train/learning_rate": list(history.learning_rate),
    }
    metrics["train_loss"] = metrics["train/loss"]
    metrics["learning_rate"] = metrics["train/learning_rate"]
    if finite:
        metrics |= {
            "train/loss_last": finite[-1],
            "train/loss_mean": sum(finite) / len(finite),
            "train/loss_best": min(finite),
        }
    return metrics


def _tell_checkpoint(step: int, path: str, outcome: Outcome, reporter: Reporter) -> None:
    outcome.checkpoints.append(path)
    outcome.saved_at = step
    reporter.tell(
        "checkpoint_saved",
        message=f"Saved a checkpoint after step {step}",
        data={"checkpoint_num": len(outcome.checkpoints), "step": step},
        artifacts={"latest_checkpoint": path, "checkpoints": list(outcome.checkpoints)},
    )


def _mean_loss(work: _Submitted, losses: list[float], outcome: Outcome) -> float:
    examples = [example for passed in work.batch for example in passed]
    loss = sum(losses) / sum(int(example.trained.sum()) for example in examples)
    if math.isfinite(loss):
        return loss
    rows = sorted(
        {e.row for e, found in zip(examples, losses, strict=True) if not math.isfinite(found)}
    )
    named = ", ".join(str(row) for row in rows[:5]) + (" …" if len(rows) > 5 else "")
    kept = (
        f"the checkpoint of step {outcome.saved_at} is kept" if outcome.saved_at else "none is kept"
    )
    raise JobFailed(
        f"The loss of step {work.step} is not a number (rows {named}): lower the learning rate "
        f"or look at these rows; {kept}",
        code="diverged",
    )
