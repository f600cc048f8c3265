"""Warnings in the job's log about a step's rollouts."""

from collections.abc import Sequence

from dreadnode_runtime.control.events import Reporter
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Group


def warn_about_rollouts(
    step: int, groups: Sequence[Group], history: RlHistory, reporter: Reporter
) -> None:
    """Warn if no group can be learned from, once while that lasts, and about failed rewards."""
    before = history.steps[-1].get("train/degenerate_groups") if history.steps else 0
    if all(group.degenerate for group in groups) and before != len(groups):
        reporter.log(_nothing_to_learn(step, groups), level="warning")
    failed = [
        (group.prompt, rollout.score.error)
        for group in groups
        for rollout in group.rollouts
        if rollout.score.error is not None
    ]
    if failed:
        prompt, error = failed[0]
        reporter.log(
            f"The reward function failed on {len(failed)} completions of step {step}, first on one "
            f"for {prompt.place}: {error}",
            level="warning",
        )


def _nothing_to_learn(step: int, groups: Sequence[Group]) -> str:
    return (
        f"Step {step} has nothing to learn from: in each of its {len(groups)} groups all "
        "completions get the same reward; use a reward with finer grades, a higher `temperature` "
        "or a larger `group_size`"
    )
