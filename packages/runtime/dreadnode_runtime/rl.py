"""The reinforcement-learning loop, top to bottom.

A step takes groups of judged answers, learns from them in one or more updates, and hands the
sampler new weights. Which groups it takes, and how many are under way meanwhile, is the feed's:
that is all in which the three modes differ. What weights a group was drawn by is its version, the
number of steps done when they were copied; step `n` (from 1) learns with weights of version
`n - 1`.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.feed import Feed
from dreadnode_runtime.order import Order
from dreadnode_runtime.policy import Floats, Policy, Sampler, Sequenced
from dreadnode_runtime.prompts import Prompt
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.rl_config import RlConfig
from dreadnode_runtime.rl_history import (
    Figures,
    RlHistory,
    learning_figures,
    rollout_figures,
)
from dreadnode_runtime.rollouts import Group, Rollouts
from dreadnode_runtime.trainer import Saved
from dreadnode_runtime.work import Outcome, tell_writing


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


@dataclass(slots=True)
class _Submitted:
    """A step whose updates the engine has, but whose results were not awaited."""

    step: int
    figures: Figures
    updates: "Sequence[tuple[list[Sequenced], asyncio.Future[list[Floats]]]]"
    saving: "asyncio.Future[Saved] | None" = field(default=None)


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
    first = outcome.step
    order = Order(len(plan.prompts), 1, config.seed, shuffle=config.shuffle)

    async def draw(index: int, sampler: Sampler) -> Group:
        prompt = plan.prompts[order.batch(index)[0]]
        return await rollouts.group(prompt, sampler, config.group_size, str(index))

    feed: Feed[Sampler, Group] = Feed(
        draw,
        per_step=config.num_rollouts,
        lead=config.lead,
        bound=config.staleness_bound,
        in_order=config.execution_mode != "fully_async",
        first=first * config.num_rollouts,
        total=plan.steps * config.num_rollouts,
    )
    begun = time.monotonic()
    in_flight: _Submitted | None = None
    unproven: tuple[int, asyncio.Future[Saved]] | None = None

    async def settle() -> None:
        """Await the step that is in flight, and tell it."""
        nonlocal in_flight, unproven
        if in_flight is None:
            return
        done, in_flight = in_flight, None
        learnt = [
            (sequence, found)
            for batch, result in done.updates
            for sequence, found in zip(batch, await result, strict=True)
        ]
        _must_be_numbers(done.step, learnt, outcome)
        if unproven is not None:
            await _tell_saved(*unproven, history, outcome, reporter)
        unproven = None if done.saving is None else (done.step, done.saving)
        clip = config.clip if config.algorithm == "ppo" else None
        figures = history.add({**done.figures, **learning_figures(learnt, clip)})
        outcome.step = done.step
        pace = (time.monotonic() - begun) / (done.step - first)
        _tell_step(done.step, plan, figures, history, pace, reporter)

    stop.training = True
    reporter.phase("training")
    sampler, version = None, -1
    try:
        for step in range(first + 1, plan.steps + 1):
            if stop.requested:
                break
            if sampler is None or step - 1 - version >= config.weight_sync_interval:
                sampler, version = await policy.sampler(), step - 1
                history.weight_syncs += 1
                history.synced_version = version
            feed.fill(sampler, version)
            history.most_pending, history.started = feed.most_pending, feed.started
            await settle()
            if _evaluation_due(plan, step - 1, first):
                # Drawing from the weights proves them, as the next step would.
                under_way = None if unproven is None else unproven[1]
                unproven = None
                await _evaluate(plan, policy, rollouts, reporter, history, outcome, under_way)
            pending = feed.pending
            aged = await feed.take(step - 1, stop)
            if not aged:
                break
            rate = config.rate(step, plan.steps)
            figures = rollout_figures(aged) | {
                "train/model_version": step - 1,
                "train/weight_sync_count": history.weight_syncs,
                "train/generation_step": feed.started,
                "train/pending_generation_groups": pending,
                "train/learning_rate": rate,
            }
            _warn(step, [group for _, group in aged], history, reporter)
            updates = []
            for batch in _updates([group for _, group in aged], config):
                learning = asyncio.ensure_future(policy.learn(batch, config.loss, rate))
                updates.append((batch, learning))
            in_flight = _Submitted(step, figures, updates)
            if step % config.checkpoint_interval == 0 and step < plan.steps:
                saving = policy.save(tell_writing(step, reporter))
                in_flight.saving = asyncio.ensure_future(saving)
        await settle()
        if unproven is not None:
            await _tell_saved(*unproven, history, outcome, reporter)
    finally:
        feed.close()
        for _, result in in_flight.updates if in_flight is not None else ():
            result.cancel()
    if stop.requested:
        if outcome.step > outcome.saved_at:
            reporter.phase("saving")
            saving = policy.save(tell_writing(outcome.step, reporter))
            await _tell_saved(outcome.step, saving, history, outcome, reporter)
    elif plan.eval_prompts:
        await _evaluate(plan, policy, rollouts, reporter, history, outcome)


async def _tell_saved(
    step: int,
    saving: Awaitable[Saved],
    history: RlHistory,
    outcome: Outcome,
    reporter: Reporter,
    *,
    best: bool = False,
) -> None:
    outcome.tell_checkpoint(step, await saving, history.at(step), reporter, best=best)


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


def _evaluation_due(plan: RlPlan, done: int, first: int) -> bool:
    if not plan.eval_prompts or (done == first and first):
        return False
    interval = plan.config.eval_interval
    return done == 0 if interval is None else done % interval == 0


async def _evaluate(
    plan: RlPlan,
    policy: Policy,
    rollouts: Rollouts,
    reporter: Reporter,
    history: RlHistory,
    outcome: Outcome,
    saving: "asyncio.Future[Saved] | None" = None,
) -> None:
    """Ask the evaluation's prompts once each, with the weights of this moment, and tell.

    Weights of a better evaluation than any before are saved, unless training begins or ends here,
    or they are SAVING already.
    """
    reporter.phase("evaluating")
    sampler = await policy.sampler()
    groups = await asyncio.gather(
        *(
            rollouts.group(prompt, sampler, 1, f"eval/{number}")
            for number, prompt in enumerate(plan.eval_prompts)
        )
    )
    scores = [group.rollouts[0].score for group in groups]
    rewards = [score.value for score in scores]
    reward = sum(rewards) / len(rewards)
    better = history.evaluated(outcome.step, reward)
    reporter.tell(
        "eval_complete",
        message=f"Reward on the evaluation data after step {outcome.step}: {reward:.4f}",
        metrics={
            "eval/steps": [outcome.step],
            "eval/reward": [reward],
            "eval/reward_max": [max(rewards)],
            "eval/reward_min": [min(rewards)],
            "eval/reward_history": [reward],
            "eval/extraction_failed_rate": [sum(s.unread for s in scores) / len(scores)],
            "eval/num_examples": len(scores),
        },
        data={"step": outcome.step, "best": better},
    )
    if outcome.step == plan.steps:
        outcome.best = None if better else outcome.best
        return
    if saving is not None or (better and outcome.step):
        under_way = saving or policy.save(tell_writing(outcome.step, reporter))
        await _tell_saved(outcome.step, under_way, history, outcome, reporter, best=better)
    reporter.phase("training")


def _tell_step(
    step: int, plan: RlPlan, figures: Figures, history: RlHistory, pace: float, reporter: Reporter
) -> None:
    tokens = history.total("train/sampled_tokens") + history.total("train/trained_tokens")
    metrics: dict[str, Any] = {"steps": [step], **{name: [v] for name, v in figures.items()}}
    reporter.tell(
        "step_complete",
        metrics=metrics,
        data={
            "step": step,
            "steps": plan.steps,
            "tokens_total": int(tokens),
            "seconds_left": round(pace * (plan.steps - step), 1),
        },
    )


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
