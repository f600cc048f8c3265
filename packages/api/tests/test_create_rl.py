"""A reinforcement-learning job is refused before anything exists, or is queued as it was meant."""

from typing import Any

import pytest

PROMPTS = {"name": "rows", "version": "1.0.0"}
WISH = {"algorithm": "importance_sampling", "prompt_dataset_ref": PROMPTS}
ENVIRONMENT = {"name": "python_v1", "params": {"source": "..."}}


def rl(**config: Any) -> dict[str, Any]:
    """Return what changes a plain wish into one for reinforcement learning."""
    settings = {**WISH, **config}
    kept = {name: value for name, value in settings.items() if value is not ...}
    return {"trainer_type": "rl", "config": {"dataset_ref": ..., **kept}}


async def create(api: Any, **config: Any) -> Any:
    await api.push()
    wish = rl(**config)
    body = {"model": "Qwen/Qwen3-8B", "trainer_type": "rl", "config": wish["config"]}
    del body["config"]["dataset_ref"]
    return await api("POST", api.jobs, json=body)


REFUSALS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no data": (
        {"prompt_dataset_ref": ...},
        [],
        "name the dataset of prompts in `prompt_dataset_ref`, or datasets of trajectories in",
    ),
    "a task": (
        {"task_ref": PROMPTS},
        [],
        "leave `task_ref` out: tasks are not run here: push their prompts as a dataset",
    ),
    "a world": ({"world_manifest_id": "w"}, [], "leave `world_manifest_id` out: worlds are not"),
    "a split of nothing": (
        {
            "prompt_split": "train",
            "prompt_dataset_ref": None,
            "trajectory_dataset_refs": [{"name": "rows", "version": "1.0.0"}],
        },
        [],
        "`prompt_split` has no effect without `prompt_dataset_ref`; give both",
    ),
    "temperature 0": ({"temperature": 0}, ["temperature"], "must be above 0: completions sampled"),
    "a group of one": ({"group_size": 1}, ["group_size"], "greater than or equal to 2"),
    "a misspelt setting": ({"num_rollout": 4}, ["num_rollout"], "unknown field"),
    "more in an update than in a step": (
        {"num_rollouts": 4, "batch_size": 8},
        [],
        "`batch_size` is 8, and a step has only 4 prompts (`num_rollouts`) to take them from",
    ),
    "clipping without PPO": (
        {"clip_high_threshold": 1.3},
        [],
        "`clip_high_threshold` has an effect with the algorithm `ppo` only",
    ),
    "turns without an environment": ({"max_turns": 4}, [], "`max_turns` has no effect without"),
    "an evaluation without data": (
        {"eval_interval": 4},
        [],
        "`eval_interval` has no effect without `eval_dataset_ref`; give both",
    ),
    "a bound in sync mode": ({"max_steps_off_policy": 2}, [], "it has no effect in `sync` mode"),
    "no bound in an asynchronous mode": (
        {"execution_mode": "fully_async"},
        [],
        "`fully_async` needs `max_steps_off_policy`",
    ),
    "two steps off": (
        {"execution_mode": "one_step_off_async", "max_steps_off_policy": 2},
        [],
        "`max_steps_off_policy` must be 1 in `one_step_off_async` mode",
    ),
    "weights older than allowed": (
        {"execution_mode": "fully_async", "max_steps_off_policy": 2, "weight_sync_interval": 3},
        [],
        "`weight_sync_interval` is 3, above `max_steps_off_policy`, 2",
    ),
    "an algorithm that the model does not support": (
        {"algorithm": "grpo"},
        ["algorithm"],
        "cannot be trained with the algorithm `grpo`; it supports `sft`, `importance_sampling`, ",
    ),
    "supervised training by another name": (
        {"algorithm": "sft"},
        ["algorithm"],
        "`sft` is not a reinforcement-learning algorithm",
    ),
    "no room for a prompt": (
        {"max_new_tokens": 4096, "max_sequence_length": 4096},
        ["max_new_tokens"],
        "leaves no room for a prompt in the 4096 tokens of `max_sequence_length`",
    ),
    "longer than the model's context": (
        {"max_sequence_length": 100_000},
        ["max_sequence_length"],
        "takes at most 32768 tokens",
    ),
    "prompts that do not exist": (
        {"prompt_dataset_ref": {"name": "nothing", "version": "1"}},
        ["prompt_dataset_ref"],
        "This organization has no dataset `nothing`",
    ),
    "trajectories that do not exist": (
        {"trajectory_dataset_refs": [{"name": "nothing", "version": "1"}]},
        ["trajectory_dataset_refs"],
        "This organization has no dataset `nothing`",
    ),
}


@pytest.mark.parametrize("wish", REFUSALS)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_impossible_rl_job_is_refused_in_a_sentence_before_it_exists(
    api: Any, wish: str
) -> None:
    config, place, sentence = REFUSALS[wish]

    refused = await create(api, **config)

    body = refused.json()
    assert (refused.status_code, body["type"]) == (422, "validation_error")
    assert sentence in body["detail"]
    assert body["errors"][0]["loc"] == ["body", "config", *place]
    assert "[" not in body["detail"]
    assert await api.count() == 0


async def test_every_default_is_resolved_and_returned(api: Any) -> None:
    created = await create(api)

    job = created.json()
    assert created.status_code == 201, job
    assert job["algorithm"] == "importance_sampling"
    assert job["prompt_dataset_ref"] == PROMPTS
    assert job["config"] == {
        "algorithm": "importance_sampling",
        "prompt_dataset_ref": PROMPTS,
        "prompt_split": "train",
        "trajectory_dataset_refs": [],
        "stop": [],
        "execution_mode": "sync",
        "reward_recipe": {"name": "row_reward_v1", "params": {}},
        "num_rollouts": 8,
        "group_size": 8,
        "batch_size": 8,
        "epochs": 1,
        "temperature": 1.0,
        "max_new_tokens": 512,
        "max_sequence_length": 32768,
        "max_turns": 1,
        "lora_rank": 16,
        "train_mlp": True,
        "train_attn": True,
        "train_unembed": True,
        "learning_rate": 4e-5,
        "learning_rate_schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
        "scale_advantages": False,
        "weight_sync_interval": 1,
        "checkpoint_interval": 10,
        "shuffle": True,
        "strict": False,
        "seed": 0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_eps": 1e-8,
    }


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"batch_size": 32}, {"num_rollouts": 32, "batch_size": 32}),
        ({"num_rollouts": 4}, {"num_rollouts": 4, "batch_size": 4}),
        ({"algorithm": "ppo"}, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
        ({"eval_dataset_ref": PROMPTS}, {"eval_interval": 10}),
        ({"environment": ENVIRONMENT}, {"max_turns": 8}),
        ({"environment": ENVIRONMENT, "max_turns": 1}, {"max_turns": 1}),
        ({"max_sequence_length": 100}, {"max_new_tokens": 50}),
        (
            {"prompt_dataset_ref": ..., "trajectory_dataset_refs": [PROMPTS]},
            {"reward_recipe": {"name": "trajectory_imitation_v1", "params": {}}},
        ),
    ],
)
async def test_defaults_are_derived_from_the_given_settings(
    api: Any, given: dict[str, Any], resolved: dict[str, Any]
) -> None:
    created = await create(api, **given)

    assert created.status_code == 201, created.text
    assert resolved.items() <= created.json()["config"].items()


async def test_ray_training_is_refused_with_an_alternative(api: Any) -> None:
    body = {
        "model": "Qwen/Qwen3-8B",
        "backend": "ray",
        "trainer_type": "rl",
        "config": {"algorithm": "grpo", "task_ref": PROMPTS, "num_rollout_workers": 4},
    }

    refused = await api("POST", api.jobs, json=body)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "backend"]
    assert "`importance_sampling` or `ppo` in place of `grpo`" in refused.json()["detail"]


async def test_a_jobs_sandbox_can_read_its_prompts_and_its_reward(api: Any) -> None:
    recipe = {"name": "contains_v1", "params": {"needle": "ok"}}
    await create(api, trajectory_dataset_refs=[PROMPTS], reward_recipe=recipe)
    job, key = await api.start()

    context = await api("GET", f"{api.jobs}/{job['id']}/rl-context", key=key)
    rows = await api("GET", "/org/acme/datasets/rows/1.0.0/content", key=key)

    assert context.json()["reward_recipe"] == recipe
    assert rows.status_code == 200


async def test_old_clients_get_the_job_that_they_requested(api: Any) -> None:
    """The body of the published client's `dn train rl`, with its lists and without nulls."""
    config = {
        "algorithm": "ppo",
        "execution_mode": "one_step_off_async",
        "trajectory_dataset_refs": [],
        "prompt_dataset_ref": PROMPTS,
        "reward_recipe": {"name": "contains_v1", "params": {"needle": "ok"}},
        "steps": 3,
        "num_rollouts": 8,
        "batch_size": 8,
        "max_steps_off_policy": 1,
        "temperature": 0.7,
        "stop": [],
    }

    created = await create(api, **config)

    assert created.status_code == 201, created.text
    echoed = created.json()["config"]
    assert {k: v for k, v in config.items() if v != []}.items() <= echoed.items()
