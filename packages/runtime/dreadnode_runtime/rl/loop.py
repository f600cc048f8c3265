"""The reinforcement-learning loop, top to bottom.

A step takes groups of judged answers, learns from them in one or more updates, and hands the
sampler new weights. Which groups it takes, and how many are under way meanwhile, is the feed's:
that is all in which the three modes differ. What weights a group was drawn by is its version, the
number of steps done when they were copied; step `n` (from 1) learns with weights of version
`n - 1`.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreadnode_runtime.backend.policy import Floats, Policy, Sampler, Sequenced
from dreadnode_runtime.backend.trainer import Saved
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.lifecycle import Outcome, tell_writing
from dreadnode_runtime.rewards.recipes import Score
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.metric_history import (
    Figures,
    RlHistory,
    learning_figures,
    rollout_figures,
)
from dreadnode_runtime.rl.rollout_scheduler import Feed
from dreadnode_runtime.rl.rollouts import Group, Rollouts
from dreadnode_runtime.sft.batching import Order


@dataclass(frozen=True, slots=True)
class RlPlan:
    """What is to be done.

    Attributes:
        prompts: What is asked.
        steps: Batches of rollouts in all.
        eval_prompts: What is asked in an evaluation.
    """

    config: RlConfig
    prompts: Sequence[Prompt]
    steps: int
    eval_prompts: Sequence[Prompt] = ()


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A step whose updates the engine has, but whose results were not awaited."""

    step: int
    figures: Figures
    updates: "Sequence[tuple[list[Sequenced], asyncio.Future[list[Floats]]]]"
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
    """Take PLAN's steps from where OUTCOME stands, telling each; ends early when STOP says so.

    A checkpoint is queued behind its step and told when the next step's figures are numbers, which
    proves its weights.

    Raises:
        JobFailed: The weights are no numbers any more, or a person's code went wrong.
    """
    config = plan.config
    loop = _Loop(plan, policy, rollouts, reporter, history, outcome)
    feed = _feed(plan, rollouts, first=outcome.step)
    stop.training = True
    reporter.phase("training")
    sampler, version = None, -1
    try:
        for step in range(outcome.step + 1, plan.steps + 1):
            if stop.requested:
                break
            if sampler is None or step - 1 - version >= config.weight_sync_interval:
                sampler, version = await policy.sampler(), step - 1
                history.synced(version)
            feed.fill(sampler, version)
            history.most_pending, history.started = feed.most_pending, feed.started
            await loop.settle()
            if loop.evaluation_due:
                await loop.evaluate()
            pending = feed.pending
            aged = await feed.take(step - 1, stop)
            if not aged:
                break
            loop.submit(step, aged, pending)
        await loop.settle()
        await loop.tell_unproven()
    finally:
        feed.close()
        await loop.close()
    if stop.requested:
        if outcome.step > outcome.saved_at:
            reporter.phase("saving")
            await loop.save_now()
    elif plan.eval_prompts:
        await loop.evaluate()


def _feed(plan: RlPlan, rollouts: Rollouts, first: int) -> Feed[Sampler, Group]:
    """Return the feed of groups for the steps after FIRST."""
    config = plan.config
    order = Order(len(plan.prompts), 1, config.seed, shuffle=config.shuffle)

    async def draw(index: int, sampler: Sampler) -> Group:
        prompt = plan.prompts[order.batch(index)[0]]
        return await rollouts.group(prompt, sampler, config.group_size, str(index))

    return Feed(
        draw,
        per_step=config.num_rollouts,
        lead=config.lead,
        bound=config.staleness_bound,
        in_order=config.execution_mode != "fully_async",
        first=first * config.num_rollouts,
        total=plan.steps * config.num_rollouts,
    )


class _Loop:
    """What the loop has under way on the engine, and what it tells of it."""

    def __init__(
        self,
        plan: RlPlan,
        policy: Policy,
        rollouts: Rollouts,
        reporter: Reporter,
        history: RlHistory,
        outcome: Outcome,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._rollouts = rollouts
        self._reporter = reporter
        self._history = history
        self._outcome = outcome
        self._in_flight: _Submitted | None = None
        # A checkpoint behind a step that was told, which the next one proves.
        self._unproven: tuple[int, asyncio.Future[Saved]] | None = None
        self._first = outcome.step
        self._begun = time.monotonic()

    def submit(self, step: int, aged: Sequence[tuple[int, Group]], pending: int) -> None:
        """Hand the engine a step on groups with their ages, and the checkpoint due behind it.

        PENDING groups are under way meanwhile.
        """
        config, history = self._plan.config, self._history
        groups = [group for _, group in aged]
        rate = config.rate(step, self._plan.steps)
        figures = rollout_figures(aged) | {
            "train/model_version": step - 1,
            "train/weight_sync_count": history.weight_syncs,
            "train/generation_step": history.started,
            "train/pending_generation_groups": pending,
            "train/learning_rate": rate,
        }
        _warn(step, groups, history, self._reporter)
        updates = [
            (batch, asyncio.ensure_future(self._policy.learn(batch, config.loss, rate)))
            for batch in _updates(groups, config)
        ]
        saving = None
        if step % config.checkpoint_interval == 0 and step < self._plan.steps:
            saving = asyncio.ensure_future(self._policy.save(tell_writing(step, self._reporter)))
        self._in_flight = _Submitted(step, figures, updates, saving)

    async def settle(self) -> None:
        """Await the step that is in flight, and tell it."""
        if self._in_flight is None:
            return
        done, self._in_flight = self._in_flight, None
        learnt = [
            (sequence, found)
            for batch, result in done.updates
            for sequence, found in zip(batch, await result, strict=True)
        ]
        _must_be_numbers(done.step, learnt, self._outcome)
        await self.tell_unproven()
        self._unproven = None if done.saving is None else (done.step, done.saving)
        clip = self._plan.config.clip if self._plan.config.algorithm == "ppo" else None
        figures = self._history.add({**done.figures, **learning_figures(learnt, clip)})
        self._outcome.step = done.step
        self._tell_step(done.step, figures)

    async def tell_unproven(self) -> None:
        """Tell the checkpoint that is proven now."""
        if self._unproven is not None:
            (step, saving), self._unproven = self._unproven, None
            self._tell_checkpoint(step, await saving)

    async def save_now(self, *, best: bool = False) -> None:
        """Save the weights of this moment, and tell it."""
        step = self._outcome.step
        self._tell_checkpoint(
            step, await self._policy.save(tell_writing(step, self._reporter)), best=best
        )

    @property
    def evaluation_due(self) -> bool:
        """Whether the weights of this moment are to be evaluated before the next step."""
        done, interval = self._outcome.step, self._plan.config.eval_interval
        if not self._plan.eval_prompts or (done == self._first and done):
            return False
        return done == 0 if interval is None else done % interval == 0

    async def evaluate(self) -> None:
        """Ask the evaluation's prompts once each, with the weights of this moment, and tell.

        Weights of a better evaluation than any before are saved, unless training begins or ends
        here. Drawing from the weights proves them, as the next step would.
        """
        outcome = self._outcome
        self._reporter.phase("evaluating")
        sampler = await self._policy.sampler()
        groups = await asyncio.gather(
            *(
                self._rollouts.group(prompt, sampler, 1, f"eval/{number}")
                for number, prompt in enumerate(self._plan.eval_prompts)
            )
        )
        better = self._tell_evaluation([group.rollouts[0].score for group in groups])
        if outcome.step == self._plan.steps:
            outcome.best = None if better else outcome.best
            return
        if self._unproven is not None:
            (step, saving), self._unproven = self._unproven, None
            self._tell_checkpoint(step, await saving, best=better)
        elif better and outcome.step:
            await self.save_now(best=better)
        self._reporter.phase("training")

    async def close(self) -> None:
        """Give up what is still under way."""
        left: list[asyncio.Future[Any]] = []
        if self._in_flight is not None:
            left += [result for _, result in self._in_flight.updates]
            left += [self._in_flight.saving] if self._in_flight.saving is not None else []
        if self._unproven is not None:
            left.append(self._unproven[1])
        for result in left:
            result.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _tell_step(self, step: int, figures: Figures) -> None:
        history, steps = self._history, self._plan.steps
        tokens = history.total("train/sampled_tokens") + history.total("train/trained_tokens")
        pace = (time.monotonic() - self._begun) / (step - self._first)
        metrics: dict[str, Any] = {"steps": [step], **{name: [v] for name, v in figures.items()}}
        self._reporter.tell(
            "step_complete",
            metrics=metrics,
            data={
                "step": step,
                "steps": steps,
                "tokens_total": int(tokens),
                "seconds_left": round(pace * (steps - step), 1),
            },
        )

    def _tell_checkpoint(self, step: int, saved: Saved, *, best: bool = False) -> None:
        at_step = self._history.at(step)
        self._outcome.tell_checkpoint(step, saved, at_step, self._reporter, best=best)

    def _tell_evaluation(self, scores: Sequence[Score]) -> bool:
        """Tell what the evaluation's answers earned; return whether it is better than before."""
        step = self._outcome.step
        rewards = [score.value for score in scores]
        reward = sum(rewards) / len(rewards)
        better = self._history.evaluated(step, reward)
        self._reporter.tell(
            "eval_complete",
            message=f"Reward on the evaluation data after step {step}: {reward:.4f}",
            metrics={
                "eval/steps": [step],
                "eval/reward": [reward],
                "eval/reward_max": [max(rewards)],
                "eval/reward_min": [min(rewards)],
                "eval/reward_history": [reward],
                "eval/extraction_failed_rate": [sum(s.unread for s in scores) / len(scores)],
                "eval/num_examples": len(scores),
            },
            data={"step": step, "best": better},
        )
        return better


def _updates(groups: Sequence[Group], config: RlConfig) -> list[list[Sequenced]]:
    """Return the batches of a step's optimizer updates, without groups that teach nothing."""
    size = config.batch_size
    batches = [
        [
            sequence
            for group in groups[at : at + size]
            for sequence in group.learnable(scale=config.scale_advantages)
        ]
        for at in range(0, len(groups), size)
    ]
    return [batch for batch in batches if batch]


def _warn(step: int, groups: Sequence[Group], history: RlHistory, reporter: Reporter) -> None:
    """Say what a person should know of a step's rollouts, and once what goes on for a while."""
    before = history.steps[-1].get("train/degenerate_groups") if history.steps else 0
    if all(group.degenerate for group in groups) and before != len(groups):
        reporter.log(
            f"Step {step} teaches nothing: in each of its {len(groups)} groups all answers earn "
            "the same; a reward in finer grades, a higher `temperature` or a larger `group_size` "
            "would tell them apart",
            level="warning",
        )
    failed = [
        (group.prompt, rollout.score.error)
        for group in groups
        for rollout in group.rollouts
        if rollout.score.error is not None
    ]
    if failed:
        prompt, error = failed[0]
        reporter.log(
            f"The reward function failed on {len(failed)} answers of step {step}, first on one to "
            f"{prompt.place}: {error}",
            level="warning",
        )


def _must_be_numbers(
    step: int, learnt: Sequence[tuple[Sequenced, Floats]], outcome: Outcome
) -> None:
    bad = sorted({s.row for s, found in learnt if not np.isfinite(found[s.drawn[1:]]).all()})
    if bad:
        raise JobFailed(
            f"The loss of step {step} is not a number, first on row {bad[0]}: lower the learning "
            f"rate; {outcome.kept()}",
            code="diverged",
        )
