"""Warnings in the job's log about a step's rollouts."""

from collections.abc import Sequence

from dreadnode_runtime.control.events import Reporter
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Group


def warn_about_rollouts(
    step: int,
    groups: Sequence[Group],
    history: RlHistory,
    reporter: Reporter,
    max_new_tokens: int,
) -> None:
    """Warn of a step without an ended completion or a difference in rewards, and of failed rewards.

    A condition that lasts for several steps is reported once.
    """
    previous = history.steps[-1] if history.steps else {}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    all_truncated = all(rollout.truncated for rollout in rollouts)
    if all_truncated and previous.get("train/truncated_fraction") != 1:
        reporter.log(
            f"All {len(rollouts)} completions of step {step} were cut off at "
            f"`max_new_tokens` {max_new_tokens} or at `max_sequence_length`, before they "
            "ended; raise `max_new_tokens`, or ask for shorter completions",
            level="warning",
        )
    degenerate = all(group.degenerate for group in groups) and not all_truncated
    if degenerate and previous.get("train/degenerate_groups") != len(groups):
        reporter.log(
            f"Step {step} has nothing to learn from: in each of its {len(groups)} groups all "
            "completions get the same reward; use a reward with finer grades, a higher "
            "`temperature` or a larger `group_size`",
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
            f"The reward failed on {len(failed)} completions of step {step}, first on one for "
            f"{prompt.place}: {error}",
            level="warning",
        )
