"""The reinforcement-learning loop.

A step takes groups of scored completions, trains on them in one or more updates, and gives the
sampler new weights. The rollout scheduler decides which groups a step takes and how many are in
flight: that is the only difference between the three execution modes. A group's version is the
number of steps done when its weights were copied; step `n` (from 1) trains weights of version
`n - 1`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreadnode_runtime.backend.policy import Floats, Policy, Sampler, TrainingSequence
from dreadnode_runtime.backend.trainer import Saved
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.outcome import Outcome, report_checkpoint_start
from dreadnode_runtime.rewards.recipes import Score
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.metric_history import (
    Metrics,
    RlHistory,
    rollout_metrics,
    training_metrics,
)
from dreadnode_runtime.rl.rollout_sample import is_sampled, step_rollouts
from dreadnode_runtime.rl.rollout_scheduler import RolloutScheduler
from dreadnode_runtime.rl.rollouts import Group, Rollouts
from dreadnode_runtime.rl.warnings import warn_about_rollouts


@dataclass(frozen=True, slots=True)
class RlPlan:
    """The input of the loop.

    Attributes:
        prompts: Training prompts.
        steps: Total number of steps.
        eval_prompts: Evaluation prompts.
    """

    config: RlConfig
    prompts: Sequence[Prompt]
    steps: int
    eval_prompts: Sequence[Prompt] = ()


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step whose updates were submitted, but not awaited."""

    step: int
    metrics: Metrics
    updates: "Sequence[tuple[list[TrainingSequence], asyncio.Future[list[Floats]]]]"
    saving: "asyncio.Future[Saved] | None"


async def train(
    plan: RlPlan,
    policy: Policy,
    rollouts: Rollouts,
    reporter: Reporter,
    stop: Stop,
    history: RlHistory,
    outcome: Outcome,
) -> None:
    """Run PLAN's steps after OUTCOME's, report each, and update OUTCOME; STOP ends the loop early.

    A checkpoint is submitted behind its step. It is pending until the next step's metrics are
    finite, which verifies its weights; only then is it reported.

    Raises:
        JobFailed: The weights are not finite, or user code failed.
    """
    config = plan.config
    loop = _Loop(plan, policy, rollouts, reporter, history, outcome)
    scheduler = _scheduler(plan, rollouts, first_step=outcome.step)
    stop.training = True
    reporter.phase("training")
    sampler, version = None, -1
    try:
        for step in range(outcome.step + 1, plan.steps + 1):
            if stop.before_step():
                break
            if sampler is None or step - 1 - version >= config.weight_sync_interval:
                sampler, version = await policy.sampler(), step - 1
                history.synced(version)
            # New groups start before the previous step is awaited, so the engine is never idle.
            scheduler.fill(sampler, version)
            history.max_pending, history.started = scheduler.max_pending, scheduler.started
            await loop.settle()
            if loop.evaluation_due:
                await loop.evaluate()
            pending = scheduler.pending
            stale_groups = await scheduler.take(step - 1, stop)
            if not stale_groups:
                break
            loop.submit(step, stale_groups, pending)
        await loop.settle()
        await loop.report_pending_checkpoint()
    finally:
        scheduler.close()
        await loop.close()
    if stop.requested:
        if outcome.step > outcome.saved_at:
            reporter.phase("saving")
            await loop.save_now()
    elif plan.eval_prompts:
        await loop.evaluate()


def _scheduler(
    plan: RlPlan, rollouts: Rollouts, first_step: int
) -> RolloutScheduler[Sampler, Group]:
    """Return the scheduler of the groups for the steps after FIRST_STEP."""
    config = plan.config
    order = config.order(len(plan.prompts))

    async def start(index: int, sampler: Sampler) -> Group:
        prompt = plan.prompts[order.batch(index)[0]]
        return await rollouts.group(prompt, sampler, config.group_size, str(index))

    return RolloutScheduler(
        start,
        per_step=config.num_rollouts,
        lead=config.lead,
        bound=config.staleness_bound,
        in_order=config.execution_mode != "fully_async",
        first=first_step * config.num_rollouts,
        total=plan.steps * config.num_rollouts,
    )


@dataclass
class _Loop:
    """The operations in flight, and their reports."""

    plan: RlPlan
    policy: Policy
    rollouts: Rollouts
    reporter: Reporter
    history: RlHistory
    outcome: Outcome
    _in_flight: _Submitted | None = None
    # The checkpoint of a reported step; the next step verifies it.
    _pending_checkpoint: "tuple[int, asyncio.Future[Saved]] | None" = None

    def __post_init__(self) -> None:
        self._first_step = self.outcome.step
        self._started_at = time.monotonic()

    def submit(self, step: int, stale_groups: Sequence[tuple[int, Group]], pending: int) -> None:
        """Submit STEP with groups and their staleness, and its checkpoint, if one is due.

        PENDING is the number of groups in flight, for the step's metrics.
        """
        config, history = self.plan.config, self.history
        groups = [group for _, group in stale_groups]
        rate = config.rate(step, self.plan.steps)
        metrics = rollout_metrics(stale_groups) | {
            "train/model_version": step - 1,
            "train/weight_sync_count": history.weight_syncs,
            "train/generation_step": history.started,
            "train/pending_generation_groups": pending,
            "train/learning_rate": rate,
        }
        warn_about_rollouts(step, groups, history, self.reporter, config.max_new_tokens)
        if is_sampled(step, self.plan.steps):
            # Before the updates, so that one can see what a step that fails was trained on.
            sample = step_rollouts(
                step, stale_groups, self.rollouts.rendering, scale=config.scale_advantages
            )
            self.reporter.report("rollouts", rollouts=sample)
        updates = [
            (batch, asyncio.ensure_future(self.policy.submit_update(batch, config.loss, rate)))
            for batch in _update_batches(groups, config)
        ]
        saving = None
        if step % config.checkpoint_interval == 0 and step < self.plan.steps:
            name = report_checkpoint_start(step, self.reporter)
            saving = asyncio.ensure_future(self.policy.save(name))
        self._in_flight = _Submitted(step, metrics, updates, saving)

    async def settle(self) -> None:
        """Await the step in flight, and report it."""
        if self._in_flight is None:
            return
        done, self._in_flight = self._in_flight, None
        trained = [
            (sequence, logprobs)
            for batch, result in done.updates
            for sequence, logprobs in zip(batch, await result, strict=True)
        ]
        _check_finite(done.step, trained, self.outcome)
        await self.report_pending_checkpoint()
        self._pending_checkpoint = None if done.saving is None else (done.step, done.saving)
        clip = self.plan.config.clip if self.plan.config.algorithm == "ppo" else None
        metrics = self.history.add({**done.metrics, **training_metrics(trained, clip)})
        self.outcome.step = done.step
        self._report_step(done.step, metrics)

    async def report_pending_checkpoint(self) -> None:
        """Report the pending checkpoint, which is verified now."""
        if self._pending_checkpoint is not None:
            (step, saving), self._pending_checkpoint = self._pending_checkpoint, None
            self._report_checkpoint(step, await saving)

    async def save_now(self, *, best: bool = False) -> None:
        """Save the current weights, and report the checkpoint."""
        step = self.outcome.step
        saved = await self.policy.save(report_checkpoint_start(step, self.reporter))
        self._report_checkpoint(step, saved, best=best)

    @property
    def evaluation_due(self) -> bool:
        """Whether the current weights must be evaluated before the next step."""
        step = self.outcome.step
        if not self.plan.eval_prompts or (step == self._first_step and step):
            return False
        return self.plan.config.evaluates_after(step)

    async def evaluate(self) -> None:
        """Sample one completion of each evaluation prompt with the current weights, and report.

        The weights of the best evaluation so far are saved, except before the first and after the
        last step. Sampling from the weights verifies them, as the next step would.
        """
        outcome = self.outcome
        self.reporter.phase("evaluating")
        sampler = await self.policy.sampler()
        groups = await asyncio.gather(
            *(
                self.rollouts.group(prompt, sampler, 1, f"eval/{number}")
                for number, prompt in enumerate(self.plan.eval_prompts)
            )
        )
        best = self._report_evaluation([group.rollouts[0].score for group in groups])
        if outcome.step == self.plan.steps:
            outcome.best = None if best else outcome.best
            return
        if self._pending_checkpoint is not None:
            (step, saving), self._pending_checkpoint = self._pending_checkpoint, None
            self._report_checkpoint(step, await saving, best=best)
        elif best and outcome.step:
            await self.save_now(best=best)
        self.reporter.phase("training")

    async def close(self) -> None:
        """Cancel the operations that are still in flight."""
        results: list[asyncio.Future[Any]] = []
        if self._in_flight is not None:
            results += [result for _, result in self._in_flight.updates]
            results += [self._in_flight.saving] if self._in_flight.saving is not None else []
        if self._pending_checkpoint is not None:
            results.append(self._pending_checkpoint[1])
        for result in results:
            result.cancel()
        await asyncio.gather(*results, return_exceptions=True)

    def _report_step(self, step: int, metrics: Metrics) -> None:
        history, steps = self.history, self.plan.steps
        tokens = history.total("train/sampled_tokens") + history.total("train/trained_tokens")
        seconds_per_step = (time.monotonic() - self._started_at) / (step - self._first_step)
        self.reporter.report(
            "step_complete",
            metrics={"steps": [step], **{name: [value] for name, value in metrics.items()}},
            data={
                "step": step,
                "steps": steps,
                "tokens_total": int(tokens),
                "seconds_left": round(seconds_per_step * (steps - step), 1),
            },
        )

    def _report_checkpoint(self, step: int, saved: Saved, *, best: bool = False) -> None:
        metrics = self.history.at(step)
        self.outcome.report_checkpoint(step, saved, metrics, self.reporter, best=best)

    def _report_evaluation(self, scores: Sequence[Score]) -> bool:
        """Report the evaluation's rewards; return whether it is the best so far."""
        step = self.outcome.step
        rewards = [score.value for score in scores]
        reward = sum(rewards) / len(rewards)
        failures = sum(score.extraction_failed for score in scores)
        best = self.history.add_evaluation(step, reward)
        self.reporter.report(
            "eval_complete",
            message=f"Evaluation reward after step {step}: {reward:.4f}",
            metrics={
                "eval/steps": [step],
                "eval/reward": [reward],
                "eval/reward_max": [max(rewards)],
                "eval/reward_min": [min(rewards)],
                "eval/reward_history": [reward],
                "eval/extraction_failed_rate": [failures / len(scores)],
                "eval/num_examples": len(scores),
            },
            data={"step": step, "best": best},
        )
        return best


def _update_batches(groups: Sequence[Group], config: RlConfig) -> list[list[TrainingSequence]]:
    """Return the batch of each of a step's optimizer updates, without degenerate groups."""
    size = config.batch_size
    batches = [
        [
            sequence
            for group in groups[at : at + size]
            for sequence in group.training_sequences(scale=config.scale_advantages)
        ]
        for at in range(0, len(groups), size)
    ]
    return [batch for batch in batches if batch]


def _check_finite(
    step: int, trained: Sequence[tuple[TrainingSequence, Floats]], outcome: Outcome
) -> None:
    rows = sorted(
        {
            sequence.row
            for sequence, logprobs in trained
            if not np.isfinite(logprobs[sequence.sampled_mask[1:]]).all()
        }
    )
    if rows:
        raise JobFailed(
            f"The loss of step {step} is not finite, first on row {rows[0]}: lower the learning "
            f"rate; {outcome.newest_checkpoint()}",
            code="diverged",
        )
