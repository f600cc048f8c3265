"""The supervised loop, top to bottom.

Tinker adds losses up over tokens. Each row's weights add up to 1 here, as in tinker-cookbook's
supervised loop, so a step's gradient is the sum over its rows of each row's mean loss: a learning
rate that suits one suits the other. `train/loss` is another figure: the mean loss, in nats, of the
step's trained tokens, each counted once, before the step's update; `eval/loss` likewise.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from dreadnode_runtime.backend.trainer import Saved, Trainer
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.rendering import Example
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig
from dreadnode_runtime.jobs.lifecycle import Outcome, tell_writing
from dreadnode_runtime.sft.batching import Order
from dreadnode_runtime.sft.metric_history import TOO_HIGH, History

AHEAD = 1
"""Steps submitted before the oldest one is awaited: the engine never waits for this process."""

Rows = Sequence[Sequence[Example]]
"""The sequences of each usable row."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        rows: What is trained on.
        steps: Optimizer steps in all.
        eval_rows: What is evaluated on.
    """

    config: SftConfig
    rows: Rows
    steps: int
    eval_rows: Rows = ()


@dataclass(frozen=True, slots=True)
class _Submitted:
    step: int
    batch: list[list[Example]]
    rows: int
    learning_rate: float
    result: "asyncio.Future[list[float]]"


@dataclass(frozen=True, slots=True)
class _Saving:
    step: int
    result: "asyncio.Future[Saved]"


async def train(
    plan: Plan,
    trainer: Trainer,
    reporter: Reporter,
    stop: Stop,
    history: History,
    so_far: Outcome,
) -> Outcome:
    """Take PLAN's steps, telling each, from SO_FAR on, and return how far they went.

    A step is a forward-backward for each micro-batch and one update, submitted together; a
    checkpoint is queued behind its step, so nothing waits for it. It is told only when the next
    step's loss is a number, which proves its weights. Ends early when STOP says so.

    Raises:
        JobFailed: The loss is no number any more.
    """
    config = plan.config
    order = Order(len(plan.rows), config.rows_per_step(), config.seed, shuffle=config.shuffle)
    loop = _Loop(plan, trainer, reporter, history, so_far)
    # An attempt that had stopped early may have been ended before it said so.
    so_far.stopped_early = _patience_is_over(config, history)
    stop.training = True
    reporter.phase("training")
    try:
        for step in range(so_far.step + 1, plan.steps + 1):
            if stop.requested or so_far.stopped_early:
                break
            loop.submit(step, order.batch(step - 1))
            save = step % config.checkpoint_interval == 0 and step < plan.steps
            if config.eval_interval and step % config.eval_interval == 0 and step < plan.steps:
                # Whether to go on, and whether these weights are the best, hangs on the answer.
                await loop.settle(keep=0)
                await loop.evaluate(save=save)
                continue
            if save:
                loop.save_behind(step)
            await loop.settle(keep=AHEAD)
        await loop.settle(keep=0)
    finally:
        await loop.close()
    if stop.requested:
        if so_far.step > so_far.saved_at:
            reporter.phase("saving")
            await loop.save_now()
    elif plan.eval_rows and history.evaluated_at != so_far.step:
        await loop.evaluate(save=False)
    return so_far


class _Loop:
    """What the loop has under way on the engine, and what it tells of it."""

    def __init__(
        self, plan: Plan, trainer: Trainer, reporter: Reporter, history: History, outcome: Outcome
    ) -> None:
        self._plan = plan
        self._trainer = trainer
        self._reporter = reporter
        self._history = history
        self._outcome = outcome
        # What was submitted and not told, oldest first; a checkpoint stands behind the step that
        # proves it, and until that is submitted, apart.
        self._queue: deque[_Submitted | _Saving] = deque()
        self._unproven: _Saving | None = None
        # An earlier attempt has warned of what lies before the checkpoint.
        self._warned = any(map(history.is_too_high, history.loss))
        self._start = outcome.step
        self._begun = time.monotonic()

    def submit(self, step: int, picked: Sequence[int]) -> None:
        """Hand the engine a step on the PICKED rows."""
        config, rows = self._plan.config, self._plan.rows
        batch = [
            [example for row in picked[at : at + config.batch_size] for example in rows[row]]
            for at in range(0, len(picked), config.batch_size)
        ]
        rate = config.rate(step, self._plan.steps)
        losses = asyncio.ensure_future(self._trainer.submit(batch, rate))
        self._queue.append(_Submitted(step, batch, len(picked), rate, losses))
        self._prove()

    def save_behind(self, step: int) -> None:
        """Let the engine save the weights of STEP, which it was just handed, in their turn."""
        saving = self._trainer.save(tell_writing(step, self._reporter))
        self._unproven = _Saving(step, asyncio.ensure_future(saving))

    async def settle(self, keep: int) -> None:
        """Await and tell what was submitted, oldest first, until KEEP steps are on their way."""
        if keep == 0:
            self._prove()
        while self._queue and (keep == 0 or self._steps_under_way > keep):
            work = self._queue.popleft()
            if isinstance(work, _Saving):
                self._tell_checkpoint(work.step, await work.result)
            else:
                self._tell_step(work, await work.result)

    async def save_now(self, *, best: bool = False) -> None:
        """Save the weights of this moment, and tell it."""
        step = self._outcome.step
        saved = await self._trainer.save(tell_writing(step, self._reporter))
        self._tell_checkpoint(step, saved, best=best)

    async def evaluate(self, *, save: bool) -> None:
        """Evaluate the weights of this moment, save the best, and judge how to go on.

        They are saved with SAVE in any case, and not at the end, where everything is saved anyway.
        """
        outcome, config = self._outcome, self._plan.config
        self._reporter.phase("evaluating")
        loss = await self._evaluation_loss()
        better = self._history.evaluated(outcome.step, loss, config.early_stopping_min_delta)
        self._tell_evaluation(loss, better=better)
        if outcome.step == self._plan.steps:
            if better:
                outcome.best = None
            return
        if better or save:
            await self.save_now(best=better)
        patience = config.early_stopping_patience
        if patience is not None and _patience_is_over(config, self._history):
            outcome.stopped_early = True
            below = self._history.to_beat - config.early_stopping_min_delta
            times = "1 evaluation" if patience == 1 else f"{patience} evaluations"
            message = f"Stopped early: {times} without a loss below {below:.4f}"
            self._reporter.log(message, step=outcome.step)
        else:
            self._reporter.phase("training")

    async def close(self) -> None:
        """Give up what is still under way."""
        self._prove()
        left = [work.result for work in self._queue]
        for result in left:
            result.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @property
    def _steps_under_way(self) -> int:
        return sum(isinstance(work, _Submitted) for work in self._queue)

    def _prove(self) -> None:
        """Let a checkpoint that waited for another step be told in its turn."""
        if self._unproven is not None:
            self._queue.append(self._unproven)
            self._unproven = None

    async def _evaluation_loss(self) -> float:
        size, rows = self._plan.config.batch_size, self._plan.eval_rows
        batches = [
            [example for row in rows[at : at + size] for example in row]
            for at in range(0, len(rows), size)
        ]
        passes = await asyncio.gather(*(self._trainer.evaluate(batch) for batch in batches))
        examples = [example for batch in batches for example in batch]
        loss = _mean_loss(examples, [found for batch in passes for found in batch])
        if not math.isfinite(loss):
            raise JobFailed(
                f"The evaluation after step {self._outcome.step} is not a number: lower the "
                f"learning rate; {self._outcome.kept()}",
                code="diverged",
            )
        return loss

    def _tell_step(self, work: _Submitted, losses: Sequence[float]) -> None:
        examples = [example for batch in work.batch for example in batch]
        loss = _mean_loss(examples, losses)
        if not math.isfinite(loss):
            raise _diverged(work.step, examples, losses, self._outcome)
        history, steps = self._history, self._plan.steps
        tokens = sum(len(example.tokens) - 1 for example in examples)
        history.add(loss, work.learning_rate, work.rows, tokens)
        self._outcome.step = work.step
        pace = (time.monotonic() - self._begun) / (work.step - self._start)
        self._reporter.tell(
            "step_complete",
            metrics={
                "steps": [work.step],
                "train/loss": history.loss[-1:],
                "train/num_sequences": history.sequences[-1:],
                "train/num_tokens": history.tokens[-1:],
            },
            data={
                "step": work.step,
                "steps": steps,
                "tokens_total": history.tokens_total,
                "seconds_left": round(pace * (steps - work.step), 1),
            },
        )
        if history.is_too_high(loss) and not self._warned:
            self._warned = True
            self._reporter.log(
                f"The loss of step {work.step} is {loss:,.4f}, more than {TOO_HIGH:g} times the "
                f"{history.first_loss:,.4f} at first; unless it comes down again, lower the "
                "learning rate",
                level="warning",
                step=work.step,
            )

    def _tell_checkpoint(self, step: int, saved: Saved, *, best: bool = False) -> None:
        at_step = self._history.at(step)
        self._outcome.tell_checkpoint(step, saved, at_step, self._reporter, best=best)

    def _tell_evaluation(self, loss: float, *, better: bool) -> None:
        step = self._outcome.step
        self._reporter.tell(
            "eval_complete",
            message=f"Loss on the evaluation data after step {step}: {loss:.4f}",
            metrics={
                "eval/loss": loss,
                "eval/num_examples": len(self._plan.eval_rows),
                "eval/steps": [step],
                "eval/loss_history": [loss],
            },
            data={"step": step, "best": better},
        )


def _patience_is_over(config: SftConfig, history: History) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and history.evals_without_progress >= patience


def _mean_loss(examples: Sequence[Example], losses: Sequence[float]) -> float:
    """Return the mean over all tokens that carry loss, given each example's sum."""
    return sum(losses) / sum(int(example.trained.sum()) for example in examples)


def _diverged(
    step: int, examples: Sequence[Example], losses: Sequence[float], outcome: Outcome
) -> JobFailed:
    found = zip(examples, losses, strict=True)
    rows = sorted({example.row for example, loss in found if not math.isfinite(loss)})
    if len(rows) == len({example.row for example in examples}):
        where = f"in all of its {len(rows)} rows, {_named(rows)}: lower the learning rate"
    else:
        where = f"in {_named(rows)}: look at what they hold, or lower the learning rate"
    return JobFailed(
        f"The loss of step {step} is not a number {where}; {outcome.kept()}", code="diverged"
    )


def _named(rows: Sequence[int], most: int = 5) -> str:
    listed = ", ".join(str(row) for row in rows[:most]) + (" …" if len(rows) > most else "")
    return f"row{'s' if len(rows) > 1 else ''} {listed}"
