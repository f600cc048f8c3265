"""What an RL job may set: every key takes effect or is refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dreadnode_runtime.backend.policy import Loss
from dreadnode_runtime.jobs.config import DatasetRef, Positive, TrainingConfig

Mode = Literal["sync", "one_step_off_async", "fully_async"]


class RlConfig(TrainingConfig):
    """An RL job's settings, with the defaults of a server that leaves them out.

    A step rolls out `num_rollouts` prompts, `group_size` answers each, and learns from them in
    updates of `batch_size` prompts.

    Attributes:
        algorithm: Tinker's policy loss.
        execution_mode: Whether sampling waits for training: `sync` does.
        prompt_split: Which split of the prompts' dataset; the server's choice if none.
        reward_recipe: What an answer is worth: `name` and `params`.
        environment: Tools that the model may call over several turns: `name` and `params`.
        steps: Batches of rollouts; with `epochs`, the fewer of the two.
        epochs: Passes over the prompts; 1 when neither is given.
        num_rollouts: Prompts rolled out for one step.
        group_size: Answers to each prompt, compared with one another.
        batch_size: Prompts of one optimizer update; several updates a step are what PPO clips for.
        max_new_tokens: Tokens of one answer.
        max_sequence_length: Tokens of prompt and answers together.
        max_turns: Answers of one rollout in an environment.
        temperature: Of sampling.
        stop: Texts that end an answer, beside the model's own end.
        scale_advantages: Whether to divide by the group's standard deviation.
        clip_low_threshold, clip_high_threshold: Between which PPO lets the ratio count.
        weight_sync_interval: Steps after which the sampler gets new weights.
        max_steps_off_policy: How many steps the weights that drew an answer may be behind.
        eval_interval: Steps between evaluations; without it there is one at each end.
        eval_max_rollouts: Prompts of an evaluation, from the first, one answer each; all if none.
    """

    algorithm: Literal["importance_sampling", "ppo"]
    execution_mode: Mode = "sync"
    prompt_dataset_ref: DatasetRef | None = None
    prompt_split: str | None = None
    trajectory_dataset_refs: tuple[DatasetRef, ...] = ()
    reward_recipe: dict[str, Any]
    environment: dict[str, Any] | None = None
    epochs: Positive | None = None
    num_rollouts: Positive = 8
    group_size: Annotated[int, Field(ge=2)] = 8
    batch_size: Positive = 8
    max_new_tokens: Positive = 512
    max_sequence_length: Annotated[int, Field(ge=2)] = 32_768
    max_turns: Positive = 1
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    stop: tuple[str, ...] = ()
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4e-5
    scale_advantages: bool = False
    clip_low_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    clip_high_threshold: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    weight_sync_interval: Positive = 1
    max_steps_off_policy: Positive | None = None
    eval_max_rollouts: Positive | None = None

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.prompt_dataset_ref is None and not self.trajectory_dataset_refs:
            raise ValueError("`prompt_dataset_ref` or `trajectory_dataset_refs` must name the data")
        if self.batch_size > self.num_rollouts:
            raise ValueError("`batch_size` is at most `num_rollouts`")
        if self.eval_max_rollouts is not None and self.eval_dataset_ref is None:
            raise ValueError("`eval_max_rollouts` needs `eval_dataset_ref`")
        if self.algorithm != "ppo" and (self.clip_low_threshold, self.clip_high_threshold) != (
            None,
            None,
        ):
            raise ValueError("`clip_low_threshold` and `clip_high_threshold` are of `ppo` only")
        if self.max_turns > 1 and self.environment is None:
            raise ValueError("`max_turns` needs an `environment`")
        self._check_staleness()
        return self

    def _check_staleness(self) -> None:
        bound = self.max_steps_off_policy
        if self.execution_mode == "sync":
            if bound is not None:
                raise ValueError("`max_steps_off_policy` is of the asynchronous modes only")
        elif bound is None:
            raise ValueError(f"`max_steps_off_policy` is needed by `{self.execution_mode}`")
        elif self.execution_mode == "one_step_off_async" and bound != 1:
            raise ValueError("`max_steps_off_policy` is 1 with `one_step_off_async`")
        elif self.weight_sync_interval > bound:
            raise ValueError(
                "`weight_sync_interval` is at most `max_steps_off_policy`, or sampling would have "
                "to wait for training"
            )

    @property
    def lead(self) -> int:
        """Steps' worth of rollouts that may be under way beyond those of the present step.

        The sampler's weights may be `weight_sync_interval - 1` steps old when a rollout starts;
        what is left of the bound is how long it may take.
        """
        if self.max_steps_off_policy is None:
            return 0
        return self.max_steps_off_policy - (self.weight_sync_interval - 1)

    @property
    def staleness_bound(self) -> int:
        """How many steps the weights that drew an answer can be behind at most."""
        if self.max_steps_off_policy is None:
            return self.weight_sync_interval - 1
        return self.max_steps_off_policy

    @property
    def loss(self) -> Loss:
        """The loss with the settings that are given."""
        given = {
            "clip_low_threshold": self.clip_low_threshold,
            "clip_high_threshold": self.clip_high_threshold,
        }
        return Loss(self.algorithm, tuple((k, v) for k, v in given.items() if v is not None))

    @property
    def clip(self) -> tuple[float, float]:
        """Between which ratios PPO lets them count; Tinker's defaults where none are given."""
        low, high = self.clip_low_threshold, self.clip_high_threshold
        return (0.8 if low is None else low, 1.2 if high is None else high)

    def total_steps(self, prompts: int) -> int:
        """Return how many steps a job on so many PROMPTS has; the last one starts over if short."""
        if self.steps is not None and self.epochs is None:
            return self.steps
        of_epochs = -(-(self.epochs or 1) * prompts // self.num_rollouts)
        return of_epochs if self.steps is None else min(of_epochs, self.steps)
