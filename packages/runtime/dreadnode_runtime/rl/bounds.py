"""The fewest and the most tokens that a reinforcement-learning job sends and samples.

The prompts of all groups are known before the job runs; the lengths of completions, the number of
turns and the groups without anything to learn are not. The bounds are for a job that runs to its
end without interruption.

| kind | at least | at most |
| --- | --- | --- |
| `prefill` | none: all prompts are cached | each group's prompt once, and every turn fills up |
| `cached_prefill` | the prompt of every completion | that of all but the first of each group |
| `sample` | one token a completion | `max_new_tokens` in every turn |
| `train` | none: all rewards of each group are equal | every turn of every rollout |
"""

from collections.abc import Sequence

from dreadnode_runtime.rl.config import RlConfig

Tokens = dict[str, int]


def token_bounds(
    config: RlConfig, prompts: Sequence[int], eval_prompts: Sequence[int]
) -> tuple[Tokens, Tokens]:
    """Return the fewest and the most tokens by kind of a job.

    Args:
        config: Its settings.
        prompts: Tokens of each training prompt.
        eval_prompts: Tokens of each evaluation prompt that is used.
    """
    steps = config.total_steps(len(prompts))
    groups = steps * config.num_rollouts
    in_groups = _in_groups(config, prompts, groups)
    evaluations = config.evaluations(steps)
    evaluated = evaluations * sum(eval_prompts)
    rollouts, eval_rollouts = groups * config.group_size, evaluations * len(eval_prompts)
    completions = rollouts + eval_rollouts
    turns = config.max_turns if config.environment is not None else 1
    # Later turns continue the conversation, as long as a completion still fits behind it.
    later, longest = turns - 1, config.max_sequence_length
    first_turns = in_groups * config.group_size
    # A prompt costs least where all of it is cached.
    least = {
        "prefill": 0,
        "cached_prefill": first_turns + evaluated,
        "sample": completions,
        "train": 0,
    }
    most = {
        "prefill": in_groups + evaluated + completions * later * (longest - config.max_new_tokens),
        "cached_prefill": first_turns - in_groups,
        "sample": completions * turns * config.max_new_tokens,
        # The input of a sequence is all its tokens but the last one.
        "train": first_turns
        + rollouts * (config.max_new_tokens - 1)
        + rollouts * later * (longest - 1),
    }
    return least, most


def _in_groups(config: RlConfig, lengths: Sequence[int], groups: int) -> int:
    """Return the sum of the LENGTHS of the prompts of the first GROUPS groups."""
    epochs, rest = divmod(groups, len(lengths))
    order = config.order(len(lengths))
    first = epochs * len(lengths)
    partial = sum(lengths[order.batch(index)[0]] for index in range(first, first + rest))
    return epochs * sum(lengths) + partial
