"""The settings of an RL job, as the API resolved them."""

from typing import Any, Literal

from dreadnode_runtime.backend.policy import Loss
from dreadnode_runtime.data.batching import Batching
from dreadnode_runtime.jobs.config import ConfigMismatch, DatasetRef, TrainingConfig

Mode = Literal["sync", "one_step_off_async", "fully_async"]


class RlConfig(TrainingConfig):
    """The settings of an RL job.

    A step samples `group_size` completions for each of `num_rollouts` prompts and learns from them
    in updates of `batch_size` prompts.
    """

    algorithm: Literal["importance_sampling", "ppo"]
    execution_mode: Mode
    prompt_dataset_ref: DatasetRef | None = None
    prompt_split: str | None = None
    reward_recipe: dict[str, Any]
    environment: dict[str, Any] | None = None
    num_rollouts: int
    group_size: int
    batch_size: int
    max_new_tokens: int
    max_turns: int
    temperature: float
    stop: tuple[str, ...] = ()
    scale_advantages: bool
    clip_low_threshold: float | None = None
    clip_high_threshold: float | None = None
    weight_sync_interval: int
    max_steps_off_policy: int | None = None
    eval_max_rollouts: int | None = None

    @property
    def lead(self) -> int:
        """How many steps' worth of rollouts may run ahead of the current step.

        The sampling weights may be `weight_sync_interval - 1` steps old when a rollout starts; the
        rest of the bound is the time that the rollout may take.
        """
        if self.max_steps_off_policy is None:
            return 0
        return self.max_steps_off_policy - (self.weight_sync_interval - 1)

    @property
    def staleness_bound(self) -> int:
        """By how many steps the sampling weights can be older than the trained ones, at most."""
        if self.max_steps_off_policy is None:
            return self.weight_sync_interval - 1
        return self.max_steps_off_policy

    @property
    def loss(self) -> Loss:
        """The loss, with the thresholds that are set."""
        given = {
            "clip_low_threshold": self.clip_low_threshold,
            "clip_high_threshold": self.clip_high_threshold,
        }
        return Loss(self.algorithm, tuple((k, v) for k, v in given.items() if v is not None))

    @property
    def clip(self) -> tuple[float, float]:
        """The lower and the upper clipping threshold of the probability ratio, of `ppo` only."""
        if self.clip_low_threshold is None or self.clip_high_threshold is None:
            raise ConfigMismatch("`ppo` needs both clipping thresholds, which the API resolves")
        return self.clip_low_threshold, self.clip_high_threshold

    def total_steps(self, prompts: int) -> int:
        """Return how many steps a job on PROMPTS prompts has; the last one is filled up."""
        return self.shorter(-(-(self.epochs or 0) * prompts // self.num_rollouts))

    def order(self, prompts: int) -> Batching:
        """Return the order in which groups take PROMPTS prompts, one each."""
        return Batching(prompts, 1, self.seed, shuffle=self.shuffle)

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation is due after STEP steps, of a job with evaluation data.

        One more follows the last step.
        """
        return step == 0 if self.eval_interval is None else step % self.eval_interval == 0

    def evaluations(self, steps: int) -> int:
        """Return how many evaluations a job of STEPS steps has, with the one at the end."""
        return 1 + (1 if self.eval_interval is None else -(-steps // self.eval_interval))
