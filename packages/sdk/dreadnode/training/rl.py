"""What the request for a reinforcement-learning job holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dreadnode.wire import CapabilityRef, DatasetRef, Request

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]
Algorithm = Literal["importance_sampling", "ppo"]
Mode = Literal["sync", "one_step_off_async", "fully_async"]


class Recipe(Request):
    """A reward or an environment: its name and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class RlConfig(Request):
    """How to learn from rewards; what is left out is the server's default, which the job tells.

    A step rolls out `num_rollouts` prompts, `group_size` answers to each, and learns from them in
    optimizer updates of `batch_size` prompts.
    """

    algorithm: Algorithm
    execution_mode: Mode | None = None
    prompt_dataset_ref: DatasetRef | None = None
    prompt_split: str | None = None
    trajectory_dataset_refs: tuple[DatasetRef, ...] = ()
    eval_dataset_ref: DatasetRef | None = None
    eval_split: str | None = None
    reward_recipe: Recipe | None = None
    environment: Recipe | None = None
    system_prompt: str | None = None
    steps: Positive | None = None
    epochs: Positive | None = None
    num_rollouts: Positive | None = None
    group_size: Annotated[int, Field(ge=2)] | None = None
    batch_size: Positive | None = None
    max_new_tokens: Positive | None = None
    max_sequence_length: Positive | None = None
    max_turns: Positive | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    stop: tuple[str, ...] = ()
    lora_rank: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    learning_rate_schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: NotNegative | None = None
    weight_decay: NotNegativeFloat | None = None
    grad_clip_norm: NotNegativeFloat | None = None
    scale_advantages: bool | None = None
    clip_low_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    clip_high_threshold: Annotated[float, Field(ge=1)] | None = None
    weight_sync_interval: Positive | None = None
    max_steps_off_policy: Positive | None = None
    checkpoint_interval: Positive | None = None
    eval_interval: Positive | None = None
    eval_max_rollouts: Positive | None = None
    shuffle: bool | None = None
    strict: bool | None = None
    seed: NotNegative | None = None
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    adam_eps: Annotated[float, Field(gt=0)] | None = None
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] | None = None
    track_project: str | None = None


class RlRequest(Request):
    """A reinforcement-learning job to be created."""

    model: str
    config: RlConfig
    backend: Literal["tinker"] = "tinker"
    trainer_type: Literal["rl"] = "rl"
    capability_ref: CapabilityRef | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    project_ref: str | None = None
    run_ref: str | None = None
    rehearse: bool = False
