"""The supervised training loop.

Tinker adds losses up over tokens. Each row's weights add up to 1 here, as in tinker-cookbook's
supervised loop, so a step's gradient is the sum over its rows of each row's mean loss: the same
learning rates suit both. `train/loss` is a different number: the mean loss, in nats, of the step's
trained tokens, each counted once, before the step's update. `eval/loss` is the same mean.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dreadnode_runtime.backend.trainer import Saved, Trainer
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig
from dreadnode_runtime.jobs.outcome import Outcome, report_checkpoint_start
from dreadnode_runtime.sft.metric_history import LOSS_WARNING_FACTOR, History
from dreadnode_runtime.sft.schedule import Schedule, Step

STEPS_AHEAD = 1
"""Steps submitted before the oldest one is awaited, so that the engine is never idle."""

Rows = Sequence[Sequence[Example]]
"""The sequences of each usable row."""


@dataclass(frozen=True)
class Plan:
    """The input of the loop.

    Attributes:
        rows: Training data.
        eval_rows: Evaluation data.
    """

    config: SftConfig
    rows: Rows
    eval_rows: Rows = ()

    @cached_property
    def schedule(self) -> Schedule:
        """What is done at each step."""
        return Schedule(self.config, len(self.rows), evaluates=bool(self.eval_rows))

    @property
    def steps(self) -> int:
        """Total number of optimizer steps."""
        return self.schedule.steps


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
    outcome: Outcome,
) -> None:
    """Run PLAN's steps after OUTCOME's, report each, and update OUTCOME; STOP ends the loop early.

    A step is one forward-backward pass for each micro-batch and one optimizer step, submitted
    together. A checkpoint is submitted behind its step, so the loop does not wait for it. It is
    pending until the next step's loss is finite, which verifies its weights; only then is it
    reported.

    Raises:
        JobFailed: The loss is not finite.
    """
    config = plan.config
    loop = _Loop(plan, trainer, reporter, history, outcome)
    # An earlier attempt can have been ended between its early stop and its report of it.
    outcome.stopped_early = _should_stop_early(config, history)
    stop.training = True
    reporter.phase("training")
    try:
        for step in plan.schedule.after(outcome.step):
            if outcome.stopped_early or stop.before_step():
                break
            loop.submit(step)
            if step.evaluates:
                # The evaluation decides about early stopping and about the best checkpoint.
                await loop.settle(keep=0)
                await loop.evaluate(save=step.saves)
                continue
            if step.saves:
                loop.save_behind(step.number)
            await loop.settle(keep=STEPS_AHEAD)
        await loop.settle(keep=0)
    finally:
        await loop.close()
    if stop.requested:
        if outcome.step > outcome.saved_at:
            reporter.phase("saving")
            await loop.save_now()
    elif plan.eval_rows and history.evaluated_at != outcome.step:
        await loop.evaluate(save=False)


@dataclass
class _Loop:
    """The operations in flight, and their reports."""

    plan: Plan
    trainer: Trainer
    reporter: Reporter
    history: History
    outcome: Outcome
    # Submitted operations that are not reported, oldest first. A checkpoint enters the queue
    # behind the step that verifies it; until that step is submitted, it is kept apart.
    _queue: deque[_Submitted | _Saving] = field(default_factory=deque)
    _pending_checkpoint: _Saving | None = None

    def __post_init__(self) -> None:
        # An earlier attempt has already warned about steps before the checkpoint.
        self._warned = any(map(self.history.is_too_high, self.history.loss))
        self._first_step = self.outcome.step
        self._started_at = time.monotonic()

    def submit(self, step: Step) -> None:
        """Submit STEP."""
        config, rows = self.plan.config, self.plan.rows
        batch = [
            [example for row in step.rows[at : at + config.batch_size] for example in rows[row]]
            for at in range(0, len(step.rows), config.batch_size)
        ]
        rate = config.rate(step.number, self.plan.steps)
        losses = asyncio.ensure_future(self.trainer.submit(batch, rate))
        self._queue.append(_Submitted(step.number, batch, len(step.rows), rate, losses))
        self._queue_pending_checkpoint()

    def save_behind(self, step: int) -> None:
        """Submit a save of the weights behind STEP, which was just submitted."""
        saving = self.trainer.save(report_checkpoint_start(step, self.reporter))
        self._pending_checkpoint = _Saving(step, asyncio.ensure_future(saving))

    async def settle(self, keep: int) -> None:
        """Await and report submitted operations, oldest first, until KEEP steps are in flight."""
        if keep == 0:
            self._queue_pending_checkpoint()
        while self._queue and (keep == 0 or self._steps_in_flight > keep):
            operation = self._queue.popleft()
            if isinstance(operation, _Saving):
                self._report_checkpoint(operation.step, await operation.result)
            else:
                self._report_step(operation, await operation.result)

    async def save_now(self, *, best: bool = False) -> None:
        """Save the current weights, and report the checkpoint."""
        step = self.outcome.step
        saved = await self.trainer.save(report_checkpoint_start(step, self.reporter))
        self._report_checkpoint(step, saved, best=best)

    async def evaluate(self, *, save: bool) -> None:
        """Evaluate the current weights, save them if they are the best, and decide on early stop.

        With SAVE they are saved in any case; after the last step never, because the end of the job
        saves everything.
        """
        outcome, config = self.outcome, self.plan.config
        self.reporter.phase("evaluating")
        loss = await self._evaluation_loss()
        best = self.history.add_evaluation(outcome.step, loss, config.min_delta)
        self._report_evaluation(loss, best=best)
        if outcome.step == self.plan.steps:
            if best:
                outcome.best = None
            return
        if best or save:
            await self.save_now(best=best)
        patience = config.early_stopping_patience
        if patience is not None and _should_stop_early(config, self.history):
            outcome.stopped_early = True
            threshold = self.history.to_beat - config.min_delta
            count = "1 evaluation" if patience == 1 else f"{patience} evaluations"
            message = f"Stopped early: {count} without a loss below {threshold:.4f}"
            self.reporter.log(message, step=outcome.step)
        else:
            self.reporter.phase("training")

    async def close(self) -> None:
        """Cancel the operations that are still in flight."""
        self._queue_pending_checkpoint()
        results = [operation.result for operation in self._queue]
        for result in results:
            result.cancel()
        await asyncio.gather(*results, return_exceptions=True)

    @property
    def _steps_in_flight(self) -> int:
        return sum(isinstance(operation, _Submitted) for operation in self._queue)

    def _queue_pending_checkpoint(self) -> None:
        if self._pending_checkpoint is not None:
            self._queue.append(self._pending_checkpoint)
            self._pending_checkpoint = None

    async def _evaluation_loss(self) -> float:
        size, rows = self.plan.config.batch_size, self.plan.eval_rows
        batches = [
            [example for row in rows[at : at + size] for example in row]
            for at in range(0, len(rows), size)
        ]
        results = await asyncio.gather(*(self.trainer.evaluate(batch) for batch in batches))
        examples = [example for batch in batches for example in batch]
        loss = _mean_loss(examples, [loss for losses in results for loss in losses])
        if not math.isfinite(loss):
            raise JobFailed(
                f"The evaluation loss after step {self.outcome.step} is not finite: lower the "
                f"learning rate; {self.outcome.newest_checkpoint()}",
                code="diverged",
            )
        return loss

    def _report_step(self, done: _Submitted, losses: Sequence[float]) -> None:
        examples = [example for batch in done.batch for example in batch]
        loss = _mean_loss(examples, losses)
        if not math.isfinite(loss):
            raise _diverged(done.step, examples, losses, self.outcome)
        history, steps = self.history, self.plan.steps
        tokens = sum(example.input_tokens for example in examples)
        history.add(loss, done.learning_rate, done.rows, tokens)
        self.outcome.step = done.step
        seconds_per_step = (time.monotonic() - self._started_at) / (done.step - self._first_step)
        self.reporter.report(
            "step_complete",
            metrics={
                "steps": [done.step],
                "train/loss": history.loss[-1:],
                "train/num_sequences": history.sequences[-1:],
                "train/num_tokens": history.tokens[-1:],
            },
            data={
                "step": done.step,
                "steps": steps,
                "tokens_total": history.tokens_total,
                "seconds_left": round(seconds_per_step * (steps - done.step), 1),
            },
        )
        if history.is_too_high(loss) and not self._warned:
            self._warned = True
            self.reporter.log(
                f"The loss of step {done.step} is {loss:,.4f}, more than {LOSS_WARNING_FACTOR:g} "
                f"times the first loss, {history.first_loss:,.4f}; if it does not fall again, "
                "lower the learning rate",
                level="warning",
                step=done.step,
            )

    def _report_checkpoint(self, step: int, saved: Saved, *, best: bool = False) -> None:
        metrics = self.history.at(step)
        self.outcome.report_checkpoint(step, saved, metrics, self.reporter, best=best)

    def _report_evaluation(self, loss: float, *, best: bool) -> None:
        step = self.outcome.step
        self.reporter.report(
            "eval_complete",
            message=f"Evaluation loss after step {step}: {loss:.4f}",
            metrics={
                "eval/loss": loss,
                "eval/num_examples": len(self.plan.eval_rows),
                "eval/steps": [step],
                "eval/loss_history": [loss],
            },
            data={"step": step, "best": best},
        )


def _should_stop_early(config: SftConfig, history: History) -> bool:
    patience = config.early_stopping_patience
    return patience is not None and history.evals_without_progress >= patience


def _mean_loss(examples: Sequence[Example], losses: Sequence[float]) -> float:
    """Return the mean over all tokens that carry loss, given each example's sum."""
    return sum(losses) / sum(int(example.trained.sum()) for example in examples)


def _diverged(
    step: int, examples: Sequence[Example], losses: Sequence[float], outcome: Outcome
) -> JobFailed:
    pairs = zip(examples, losses, strict=True)
    rows = sorted({_row(example) for example, loss in pairs if not math.isfinite(loss)})
    if len(rows) == len({_row(example) for example in examples}):
        where = f"in all of its {len(rows)} rows, {_row_list(rows)}: lower the learning rate"
    else:
        where = f"in {_row_list(rows)}: check these rows, or lower the learning rate"
    return JobFailed(
        f"The loss of step {step} is not finite {where}; {outcome.newest_checkpoint()}",
        code="diverged",
    )


def _row(example: Example) -> tuple[str, int]:
    return example.dataset, example.row


def _row_list(rows: Sequence[tuple[str, int]], limit: int = 5) -> str:
    named = [f"{row} of {dataset}" if dataset else str(row) for dataset, row in rows[:limit]]
    listed = ", ".join(named) + (" …" if len(rows) > limit else "")
    return f"row{'s' if len(rows) > 1 else ''} {listed}"
