"""The numbers and choices of an RL job, as flags; the server fills in what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from dreadnode.cli.train.sft_settings import EVALUATION, FOLLOWING, OPTIMIZER, TRAINING, given

ROLLOUTS = Group("Rollouts", sort_key=10)


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class RlSettings:
    """Flags of `dn train rl` that go into the job's configuration as they are."""

    execution_mode: Literal["sync", "one_step_off_async", "fully_async"] | None = None
    """Whether sampling waits for training: `sync` does."""

    max_steps_off_policy: int | None = None
    """How many steps the weights that draw an answer may be behind; not in `sync` mode."""

    weight_sync_interval: int | None = None
    """Steps after which the sampler gets new weights."""

    steps: int | None = None
    """Batches of rollouts, at most."""

    epochs: int | None = None
    """Times through the prompts."""

    batch_size: int | None = None
    """Prompts of one optimizer update; several updates a step are what PPO clips for."""

    lora_rank: int | None = None
    """Rank of the adapter."""

    system_prompt: str | None = None
    """A prompt that goes before every row."""

    strict: bool | None = None
    """Refuse the job for a single row that cannot be used."""

    shuffle: Annotated[bool | None, Parameter(negative="--no-shuffle")] = None
    """Take the prompts in an order that the seed makes, and not in the file's."""

    seed: int | None = None
    """Of the prompts' order, the adapter's start and sampling."""

    checkpoint_interval: int | None = None
    """Steps between checkpoints."""

    num_rollouts: Annotated[int | None, Parameter(group=ROLLOUTS)] = None
    """Prompts of one step."""

    group_size: Annotated[int | None, Parameter(group=ROLLOUTS)] = None
    """Answers to each prompt, compared with one another."""

    max_new_tokens: Annotated[int | None, Parameter(group=ROLLOUTS)] = None
    """Tokens of one answer, at most."""

    max_sequence_length: Annotated[int | None, Parameter(group=ROLLOUTS)] = None
    """Tokens of prompt and answers together; longer prompts are left out."""

    max_turns: Annotated[int | None, Parameter(group=ROLLOUTS)] = None
    """Answers of one rollout in an environment."""

    temperature: Annotated[float | None, Parameter(group=ROLLOUTS)] = None
    """Of sampling; 1 is the model's own distribution."""

    stop: Annotated[tuple[str, ...] | None, Parameter(group=ROLLOUTS)] = None
    """A text that ends an answer; may be given again."""

    learning_rate: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Of the Adam optimizer, at its highest."""

    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"] | None, Parameter(group=OPTIMIZER)
    ] = None
    """How the learning rate goes on after the warm-up."""

    warmup_steps: Annotated[int | None, Parameter(group=OPTIMIZER)] = None
    """Steps in which the learning rate rises."""

    weight_decay: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Share by which weights shrink, times the learning rate."""

    grad_clip_norm: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Longest gradient; 0 is no limit."""

    scale_advantages: Annotated[bool | None, Parameter(group=OPTIMIZER)] = None
    """Divide advantages by their group's standard deviation."""

    clip_low_threshold: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """The lowest ratio that PPO lets count."""

    clip_high_threshold: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """The highest ratio that PPO lets count."""

    adam_beta1: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Decay of the gradient's mean."""

    adam_beta2: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Decay of the gradient's variance."""

    adam_eps: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """What keeps the division from going wrong."""

    eval_interval: Annotated[int | None, Parameter(group=EVALUATION)] = None
    """Steps between evaluations."""

    eval_max_rollouts: Annotated[int | None, Parameter(group=EVALUATION)] = None
    """Prompts of an evaluation, from the first; all if left out."""

    track: Annotated[
        tuple[Literal["tensorboard", "mlflow", "wandb"], ...] | None,
        Parameter(group=FOLLOWING, negative="--no-track"),
    ] = None
    """Follow the run there too, where the server is set up for it; may be given again."""

    track_project: Annotated[str | None, Parameter(group=FOLLOWING)] = None
    """Under which project, experiment or folder the run is followed."""

    def given(self) -> dict[str, Any]:
        """Return what was given; what depends on the model, the server knows.

        Raises:
            InputError: A number can mean nothing.
        """
        from dreadnode.training.rl import RlConfig

        return given(self, RlConfig)


NONE = RlSettings()
