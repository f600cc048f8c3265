"""The defaults of reinforcement learning, and what of its settings depends on the model."""

from typing import Any

from dreadnode_api.errors import Invalid
from dreadnode_api.training.rl_schemas import RlConfig

RL_DEFAULTS: dict[str, Any] = {
    "execution_mode": "sync",
    "group_size": 8,
    "temperature": 1.0,
    "lora_rank": 16,
    "learning_rate": 4e-5,
    "learning_rate_schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "grad_clip_norm": 0.0,
    "scale_advantages": False,
    "weight_sync_interval": 1,
    "checkpoint_interval": 10,
    "max_turns": 1,
    "shuffle": True,
    "strict": False,
    "seed": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_eps": 1e-8,
}
PROMPTS = 8
TURNS = 8
NEW_TOKENS = 512
EVAL_INTERVAL = 10
PPO_CLIP = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}


def rl_values(config: RlConfig, context: int) -> dict[str, Any]:
    """Return `config` with every default filled in, for a model that takes `context` tokens.

    Raises:
        Invalid: an answer of the asked length leaves no room for a prompt.
    """
    given = {
        name: value
        for name, value in config.model_dump(
            exclude={"track", "track_project"}, exclude_none=True, mode="json"
        ).items()
        if value != []
    }
    prompts = given.get("num_rollouts", max(PROMPTS, given.get("batch_size", 0)))
    length = given.get("max_sequence_length", context)
    values = {
        **RL_DEFAULTS,
        **(PPO_CLIP if config.algorithm == "ppo" else {}),
        "num_rollouts": prompts,
        "batch_size": min(prompts, PROMPTS),
        "max_sequence_length": length,
        "max_new_tokens": min(NEW_TOKENS, max(1, length // 2)),
        "reward_recipe": {"name": _default_reward(config), "params": {}},
        **given,
    }
    if config.environment is not None:
        values["max_turns"] = given.get("max_turns", TURNS)
    if config.eval_dataset_ref is not None:
        values.setdefault("eval_interval", EVAL_INTERVAL)
    if "steps" not in given and "epochs" not in given:
        values["epochs"] = 1
    if values["max_new_tokens"] >= length:
        raise Invalid(
            f"`max_new_tokens` is {values['max_new_tokens']}, which leaves no room for a prompt in "
            f"the {length} tokens of `max_sequence_length`",
            "config",
            "max_new_tokens",
        )
    return values


def _default_reward(config: RlConfig) -> str:
    only_trajectories = config.prompt_dataset_ref is None
    return "trajectory_imitation_v1" if only_trajectories else "row_reward_v1"
