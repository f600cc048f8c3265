"""What a wish for a reinforcement-learning job may hold."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dreadnode_api.http.schemas import Request
from dreadnode_api.training.config_schemas import TrainConfig
from dreadnode_api.training.refs import Ref, SplitName, evaluated

StopText = Annotated[str, Field(min_length=1, max_length=100)]

_NOT_HERE = {
    "task_ref": "tasks are not run here: push their prompts as a dataset, name it in "
    "`prompt_dataset_ref`, and give tools as an `environment`",
    "world_manifest_id": "worlds are not run here: give tools as an `environment`",
    "world_runtime_id": "worlds are not run here: give tools as an `environment`",
    "world_agent_name": "worlds are not run here: give the agent's prompt as `system_prompt`",
    "world_goal": "worlds are not run here: give the goal in each row's prompt",
    "world_reward": "worlds are not run here: name a `reward_recipe`",
    "max_episode_steps": "worlds are not run here: bound a rollout in an `environment` "
    "by `max_turns`",
}
_ASYNC = ("one_step_off_async", "fully_async")


class Recipe(Request):
    """A reward or an environment: its name and its parameters."""

    name: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)


class RlConfig(TrainConfig):
    """The settings of reinforcement learning; what is left out has a default, echoed in the job.

    A step rolls out `num_rollouts` prompts, `group_size` answers to each, and learns from them in
    optimizer updates of `batch_size` prompts. Bounds that depend on the model are checked against
    it; the parameters of the reward, against the first rows.
    """

    algorithm: str = Field(max_length=50, description="importance_sampling or ppo")
    execution_mode: Literal["sync", "one_step_off_async", "fully_async"] = Field(
        "sync", description="Whether sampling waits for training: `sync` does"
    )
    prompt_dataset_ref: Ref | None = Field(None, description="What is asked")
    prompt_split: SplitName | None = Field(
        None,
        description="Of the prompts; the only one, or `train`, if left out",
        examples=["train"],
    )
    trajectory_dataset_refs: list[Ref] = Field(
        default=[], max_length=16, description="Each turn of the assistant is a prompt"
    )
    reward_recipe: Recipe | None = Field(
        None, description="What an answer is worth: a recipe, or a function of your own"
    )
    environment: Recipe | None = Field(None, description="Tools to call over several turns")
    num_rollouts: int | None = Field(
        None, ge=1, le=65_536, description="Prompts of one step, 8 if left out", examples=[8]
    )
    group_size: int | None = Field(None, ge=2, le=1024, description="Answers to each prompt")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Prompts of one optimizer update, at most 8 if left out",
        examples=[8],
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of one answer, at most; 512 where they fit, if left out",
        examples=[512],
    )
    max_sequence_length: int | None = Field(
        None,
        ge=2,
        description="Tokens of prompt and answers together; what the model takes, if left out",
        examples=[4096],
    )
    max_turns: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Answers of one rollout; more than 1, and 8 if left out, in an `environment`",
    )
    temperature: float | None = Field(
        None, ge=0, le=10, description="Of sampling; 1 is the model's own distribution"
    )
    stop: list[StopText] = Field(default=[], max_length=16, description="Texts that end an answer")
    scale_advantages: bool | None = Field(
        None, description="Divide by the group's standard deviation"
    )
    clip_low_threshold: float | None = Field(
        None, ge=0, le=1, description="The lowest ratio that counts; of `ppo` only", examples=[0.8]
    )
    clip_high_threshold: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="The highest ratio that counts; of `ppo` only",
        examples=[1.2],
    )
    weight_sync_interval: int | None = Field(
        None, ge=1, le=1000, description="Steps after which the sampler gets new weights"
    )
    max_steps_off_policy: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="How many steps the weights that draw an answer may be behind; needed by the "
        "asynchronous modes, and of no other",
        examples=[1],
    )
    eval_max_rollouts: int | None = Field(
        None,
        ge=1,
        description="Prompts of an evaluation, from the first; all if left out",
        examples=[64],
    )

    task_ref: Any = Field(None, description="Not offered here")
    world_manifest_id: Any = Field(None, description="Not offered here")
    world_runtime_id: Any = Field(None, description="Not offered here")
    world_agent_name: Any = Field(None, description="Not offered here")
    world_goal: Any = Field(None, description="Not offered here")
    world_reward: Any = Field(None, description="Not offered here")
    max_episode_steps: Any = Field(None, description="Not offered here")

    @model_validator(mode="before")
    @classmethod
    def _evaluated(cls, value: Any) -> Any:
        return evaluated(value, "prompt_dataset_ref")

    @model_validator(mode="after")
    def _sensible(self) -> "RlConfig":
        for field, instead in _NOT_HERE.items():
            if getattr(self, field) is not None:
                raise ValueError(f"leave `{field}` out: {instead}")
        self.refuse_alpha()
        if self.prompt_dataset_ref is None and not self.trajectory_dataset_refs:
            raise ValueError(
                "name what to ask in `prompt_dataset_ref`, or trajectories to learn from in "
                "`trajectory_dataset_refs`"
            )
        if self.prompt_split is not None and self.prompt_dataset_ref is None:
            raise ValueError("`prompt_split` has no effect without `prompt_dataset_ref`; give both")
        if self.temperature == 0:
            raise ValueError(
                "`temperature` must be above 0: answers drawn at 0 are all alike, so that a group "
                "has nothing to compare"
            )
        self._check_counts()
        self._check_needs()
        self._check_staleness()
        return self

    def _check_counts(self) -> None:
        together, updates = self.num_rollouts, self.batch_size
        if together is not None and updates is not None and updates > together:
            raise ValueError(
                f"`batch_size` is {updates}, and a step has only {together} prompts "
                "(`num_rollouts`) to take them from"
            )

    def _check_needs(self) -> None:
        for field in ("eval_interval", "eval_max_rollouts"):
            if getattr(self, field) is not None and self.eval_dataset_ref is None:
                raise ValueError(f"`{field}` has no effect without `eval_dataset_ref`; give both")
        if (self.max_turns or 1) > 1 and self.environment is None:
            raise ValueError("`max_turns` has no effect without an `environment`; give both")
        for field in ("clip_low_threshold", "clip_high_threshold"):
            if getattr(self, field) is not None and self.algorithm != "ppo":
                raise ValueError(f"`{field}` has an effect with the algorithm `ppo` only")

    def _check_staleness(self) -> None:
        mode, bound = self.execution_mode, self.max_steps_off_policy
        if mode not in _ASYNC:
            if bound is not None:
                raise ValueError(
                    "leave `max_steps_off_policy` out: it has no effect in `sync` mode"
                )
            return
        if bound is None:
            raise ValueError(
                f"`{mode}` needs `max_steps_off_policy`: how many steps the weights that draw an "
                "answer may be behind those that learn from it"
            )
        if mode == "one_step_off_async" and bound != 1:
            raise ValueError("`max_steps_off_policy` is 1 in `one_step_off_async` mode")
        if (self.weight_sync_interval or 1) > bound:
            raise ValueError(
                f"`weight_sync_interval` is {self.weight_sync_interval}, above "
                f"`max_steps_off_policy`, {bound}, so that sampling would have to wait for training"
            )
