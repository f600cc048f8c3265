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

from dreadnode_runtime.config import SftConfig
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.history import History
from dreadnode_runtime.order import Order
from dreadnode_runtime.rendering import Example
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.trainer import Saved, Trainer
from dreadnode_runtime.work import Outcome, tell_writing

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
    outcome, start = so_far, so_far.step
    queue: deque[_Submitted | _Saving] = deque()
    unproven: _Saving | None = None
    begun = time.monotonic()

    async def settle(keep: int) -> None:
        """Await what was submitted, oldest first, until KEEP steps are still on their way."""
        while queue and (keep == 0 or sum(isinstance(w, _Submitted) for w in queue) > keep):
            work = queue.popleft()
            if isinstance(work, _Saving):
                saved = await work.result
                outcome.tell_checkpoint(work.step, saved, history.at(work.step), reporter)
                continue
            examples = [example for batch in work.batch for example in batch]
            loss = _mean_loss(examples, await work.result)
            if not math.isfinite(loss):
                raise _diverged(work.step, examples, await work.result, outcome)
            tokens = sum(len(example.tokens) - 1 for example in examples)
            history.add(loss, work.learning_rate, work.rows, tokens)
            outcome.step = work.step
            pace = (time.monotonic() - begun) / (work.step - start)
            _tell_step(history, plan.steps, pace, reporter)

    stop.training = True
    reporter.phase("training")
    try:
        for step in range(start + 1, plan.steps + 1):
            if stop.requested or outcome.stopped_early:
                break
            picked = order.batch(step - 1)
            batch = [
                [e for row in picked[at : at + config.batch_size] for e in plan.rows[row]]
                for at in range(0, len(picked), config.batch_size)
            ]
            rate = config.rate(step, plan.steps)
            losses = asyncio.ensure_future(trainer.submit(batch, rate))
            queue.append(_Submitted(step, batch, len(picked), rate, losses))
            if unproven is not None:
                queue.append(unproven)
                unproven = None
            save = step % config.checkpoint_interval == 0 and step < plan.steps
            if config.eval_interval and step % config.eval_interval == 0 and step < plan.steps:
                # Whether to go on, and whether these weights are the best, hangs on the answer.
                await settle(keep=0)
                await _evaluate(plan, trainer, reporter, outcome, history, save=save)
                continue
            if save:
                saving = trainer.save(tell_writing(step, reporter))
                unproven = _Saving(step, asyncio.ensure_future(saving))
            await settle(keep=AHEAD)
        if unproven is not None:
            queue.append(unproven)
            unproven = None
        await settle(keep=0)
    finally:
        left = [work.result for work in (*queue, *([unproven] if unproven else []))]
        for result in left:
            result.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if stop.requested:
        if outcome.step > outcome.saved_at:
            reporter.phase("saving")
            saved = await trainer.save(tell_writing(outcome.step, reporter))
            outcome.tell_checkpoint(outcome.step, saved, history.at(outcome.step), reporter)
    elif plan.eval_rows and history.evaluated_at != outcome.step:
        await _evaluate(plan, trainer, reporter, outcome, history, save=False)
    return outcome


async def _evaluate(
    plan: Plan,
    trainer: Trainer,
    reporter: Reporter,
    outcome: Outcome,
    history: History,
    *,
    save: bool,
) -> None:
    """Evaluate the weights of this moment, save them if they are the best, and judge how to go on.

    They are saved with SAVE in any case, and not at the end, where everything is saved anyway.
    """
    config = plan.config
    reporter.phase("evaluating")
    size = config.batch_size
    batches = [
        [e for row in plan.eval_rows[at : at + size] for e in row]
        for at in range(0, len(plan.eval_rows), size)
    ]
    passes = await asyncio.gather(*(trainer.evaluate(batch) for batch in batches))
    loss = _mean_loss(
        [example for batch in batches for example in batch],
        [found for batch in passes for found in batch],
    )
    if not math.isfinite(loss):
        raise JobFailed(
            f"The evaluation after step {outcome.step} is not a number: lower the learning rate; "
            f"{outcome.kept()}",
            code="diverged",
        )
    better = history.evaluated(outcome.step, loss, config.early_stopping_min_delta)
    reporter.tell(
        "eval_complete",
        message=f"Loss on the evaluation data after step {outcome.step}: {loss:.4f}",
        metrics={
            "eval/loss": loss,
            "eval/num_examples": len(plan.eval_rows),
            "eval/steps": [outcome.step],
            "eval/loss_history": [loss],
        },
        data={"step": outcome.step, "best": better},
    )
    if outcome.step == plan.steps:
        if better:
            outcome.best = None
        return
    if better or save:
        saved = await trainer.save(tell_writing(outcome.step, reporter))
        at_step = history.at(outcome.step)
        outcome.tell_checkpoint(outcome.step, saved, at_step, reporter, best=better)
    patience = config.early_stopping_patience
    if patience is not None and history.evals_without_progress >= patience:
        outcome.stopped_early = True
        below = history.to_beat - config.early_stopping_min_delta
        times = "1 evaluation" if patience == 1 else f"{patience} evaluations"
        reporter.log(f"Stopped early: {times} without a loss below {below:.4f}", step=outcome.step)
    else:
        reporter.phase("training")


def _tell_step(history: History, steps: int, pace: float, reporter: Reporter) -> None:
    step = len(history.loss)
    reporter.tell(
        "step_complete",
        metrics={
            "steps": [step],
            "train/loss": history.loss[-1:],
            "train/num_sequences": history.sequences[-1:],
            "train/num_tokens": history.tokens[-1:],
        },
        data={
            "step": step,
            "steps": steps,
            "tokens_total": history.tokens_total,
            "seconds_left": round(pace * (steps - step), 1),
        },
    )


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
