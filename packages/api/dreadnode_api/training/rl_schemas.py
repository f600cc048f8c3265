"""The settings of a reinforcement-learning job."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dreadnode_api.http.schemas import Request
from dreadnode_api.training.config_schemas import EvalInterval, LearningRate, TrainConfig
from dreadnode_api.training.refs import Ref, SplitName, evaluated
from dreadnode_api.training.setting_metadata import (
    DATA,
    EVALUATION,
    OPTIMIZER,
    ROLLOUTS,
    TRAINING,
    Choices,
    DefaultFrom,
    Needs,
    NotOffered,
)

StopText = Annotated[str, Field(min_length=1, max_length=100)]

PROMPTS = 8
TURNS = 8
NEW_TOKENS = 512
EVAL_INTERVAL = 10
_TASKS = NotOffered(
    "tasks are not run here: push their prompts as a dataset, name it in `prompt_dataset_ref`, "
    "and give tools as an `environment`"
)
_ASYNC = ("one_step_off_async", "fully_async")


def _world(instead: str) -> NotOffered:
    return NotOffered(f"worlds are not run here: {instead}")


_TOOLS = _world("give tools as an `environment`")
_UNUSED: Any = Field(None, description="Not offered here.")


def _prompts(settings: Mapping[str, Any], context: int) -> int:
    return max(PROMPTS, int(settings.get("batch_size", 0)))


def new_tokens(settings: Mapping[str, Any], context: int) -> int:
    """Return the default of the longest completion."""
    return min(NEW_TOKENS, max(1, int(settings["max_sequence_length"]) // 2))


def _reward(settings: Mapping[str, Any], context: int) -> dict[str, Any]:
    only_trajectories = "prompt_dataset_ref" not in settings
    name = "trajectory_imitation_v1" if only_trajectories else "row_reward_v1"
    return {"name": name, "params": {}}


def _ppo(value: float) -> DefaultFrom:
    return DefaultFrom(
        f"{value:g} with `ppo`",
        lambda settings, context: value if settings["algorithm"] == "ppo" else None,
    )


class Recipe(Request):
    """A reward or an environment: its name and its parameters."""

    name: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)


class RlConfig(TrainConfig):
    """The settings of reinforcement learning; a setting that is left out has a default.

    A step samples `group_size` completions for each of `num_rollouts` prompts and learns from them
    in optimizer updates of `batch_size` prompts. The job's `config` echoes every default. Bounds
    that depend on the model are checked against it; the parameters of the reward, against the
    first rows.
    """

    learning_rate: LearningRate = 4e-5
    eval_interval: Annotated[
        EvalInterval,
        DefaultFrom(
            f"{EVAL_INTERVAL} if there is an evaluation dataset",
            lambda settings, context: EVAL_INTERVAL if "eval_dataset_ref" in settings else None,
        ),
    ] = None
    algorithm: Annotated[
        str,
        TRAINING,
        Choices(("importance_sampling", "ppo")),
        DefaultFrom("required; `importance_sampling` on the command line"),
    ] = Field(max_length=50, description="Policy loss.")
    execution_mode: Annotated[Literal["sync", "one_step_off_async", "fully_async"], ROLLOUTS] = (
        Field(
            "sync",
            description="Whether sampling waits for training (`sync`), samples the next step's "
            "completions meanwhile (`one_step_off_async`), or never waits (`fully_async`).",
        )
    )
    prompt_dataset_ref: Annotated[
        Ref | None, DATA, DefaultFrom("required, unless `trajectory_dataset_refs` is set")
    ] = Field(None, description="Dataset of prompts.")
    prompt_split: Annotated[
        SplitName | None,
        DATA,
        Needs("prompt_dataset_ref"),
        DefaultFrom("the only split, or `train`"),
    ] = Field(None, description="Split of the dataset of prompts.", examples=["train"])
    trajectory_dataset_refs: Annotated[list[Ref], DATA] = Field(
        [],
        max_length=16,
        description="Datasets of trajectories; each assistant turn becomes a prompt.",
    )
    reward_recipe: Annotated[
        Recipe | None,
        TRAINING,
        DefaultFrom(
            "`row_reward_v1`; `trajectory_imitation_v1` if there are only trajectories", _reward
        ),
    ] = Field(None, description="Reward recipe that scores a completion, or your own function.")
    environment: Annotated[Recipe | None, ROLLOUTS] = Field(
        None, description="Environment with tools for rollouts of several turns."
    )
    num_rollouts: Annotated[
        int | None,
        ROLLOUTS,
        DefaultFrom(f"{PROMPTS}, or `batch_size` if that is more", _prompts),
    ] = Field(None, ge=1, le=65_536, description="Prompts per step.", examples=[PROMPTS])
    group_size: Annotated[int | None, ROLLOUTS] = Field(
        8, ge=2, le=1024, description="Completions per prompt; their mean reward is the baseline."
    )
    batch_size: Annotated[
        int | None,
        TRAINING,
        DefaultFrom(
            f"`num_rollouts`, at most {PROMPTS}",
            lambda settings, context: min(settings["num_rollouts"], PROMPTS),
        ),
    ] = Field(
        None, ge=1, le=65_536, description="Prompts per optimizer update.", examples=[PROMPTS]
    )
    max_sequence_length: Annotated[
        int | None,
        ROLLOUTS,
        DefaultFrom("the model's context", lambda settings, context: context),
    ] = Field(
        None,
        ge=2,
        description="Maximum number of tokens of a prompt and its completions; prompts that do "
        "not fit are left out.",
        examples=[4096],
    )
    max_new_tokens: Annotated[
        int | None,
        ROLLOUTS,
        DefaultFrom(f"{NEW_TOKENS}, at most half of `max_sequence_length`", new_tokens),
    ] = Field(
        None, ge=1, description="Maximum number of tokens of a completion.", examples=[NEW_TOKENS]
    )
    max_turns: Annotated[
        int | None,
        ROLLOUTS,
        DefaultFrom(
            f"1; {TURNS} with an `environment`",
            lambda settings, context: TURNS if "environment" in settings else 1,
        ),
    ] = Field(
        None,
        ge=1,
        le=1000,
        description="Maximum number of completions of a rollout; more than 1 needs an "
        "`environment`.",
        examples=[1],
    )
    temperature: Annotated[float | None, ROLLOUTS] = Field(
        1.0, gt=0, le=10, description="Sampling temperature; 1 samples the model's distribution."
    )
    stop: Annotated[list[StopText], ROLLOUTS] = Field(
        [], max_length=16, description="Strings that end a completion."
    )
    scale_advantages: Annotated[bool | None, OPTIMIZER] = Field(
        False, description="Divide advantages by the standard deviation of their group."
    )
    clip_low_threshold: Annotated[float | None, OPTIMIZER, _ppo(0.8)] = Field(
        None,
        ge=0,
        le=1,
        description="Lower clipping threshold of the probability ratio; `ppo` only.",
        examples=[0.8],
    )
    clip_high_threshold: Annotated[float | None, OPTIMIZER, _ppo(1.2)] = Field(
        None,
        ge=1,
        le=1000,
        description="Upper clipping threshold of the probability ratio; `ppo` only.",
        examples=[1.2],
    )
    weight_sync_interval: Annotated[int | None, ROLLOUTS] = Field(
        1, ge=1, le=1000, description="Steps after which the sampler gets new weights."
    )
    max_steps_off_policy: Annotated[
        int | None, ROLLOUTS, DefaultFrom("required by the asynchronous modes")
    ] = Field(
        None,
        ge=1,
        le=1000,
        description="Maximum number of steps by which the sampling weights may be older than the "
        "trained ones; asynchronous modes only.",
        examples=[1],
    )
    eval_max_rollouts: Annotated[
        int | None, EVALUATION, Needs("eval_dataset_ref"), DefaultFrom("all")
    ] = Field(None, ge=1, description="Maximum number of prompts of an evaluation.", examples=[64])

    task_ref: Annotated[Any, _TASKS] = _UNUSED
    world_manifest_id: Annotated[Any, _TOOLS] = _UNUSED
    world_runtime_id: Annotated[Any, _TOOLS] = _UNUSED
    world_agent_name: Annotated[Any, _world("give the agent's prompt as `system_prompt`")] = _UNUSED
    world_goal: Annotated[Any, _world("give the goal in each row's prompt")] = _UNUSED
    world_reward: Annotated[Any, _world("name a `reward_recipe`")] = _UNUSED
    max_episode_steps: Annotated[
        Any, _world("bound a rollout in an `environment` by `max_turns`")
    ] = _UNUSED

    @model_validator(mode="before")
    @classmethod
    def _evaluated(cls, value: Any) -> Any:
        return evaluated(value, "prompt_dataset_ref")

    @field_validator("temperature", mode="before")
    @classmethod
    def _samples(cls, value: Any) -> Any:
        if value == 0 and value is not False:
            raise ValueError(
                "must be above 0: completions sampled at 0 are all alike, so that a group has "
                "nothing to compare"
            )
        return value

    @model_validator(mode="after")
    def _names_data(self) -> Self:
        if self.prompt_dataset_ref is None and not self.trajectory_dataset_refs:
            raise ValueError(
                "name the dataset of prompts in `prompt_dataset_ref`, or datasets of trajectories "
                "in `trajectory_dataset_refs`"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        prompts, update = self.num_rollouts, self.batch_size
        if prompts is not None and update is not None and update > prompts:
            raise ValueError(
                f"`batch_size` is {update}, and a step has only {prompts} prompts "
                "(`num_rollouts`) to take them from"
            )
        if (self.max_turns or 1) > 1 and self.environment is None:
            raise ValueError("`max_turns` has no effect without an `environment`; give both")
        for field in ("clip_low_threshold", "clip_high_threshold"):
            if getattr(self, field) is not None and self.algorithm != "ppo":
                raise ValueError(f"`{field}` has an effect with the algorithm `ppo` only")
        return self

    @model_validator(mode="after")
    def _bounds_staleness(self) -> Self:
        mode, bound = self.execution_mode, self.max_steps_off_policy
        if mode not in _ASYNC:
            if bound is not None:
                raise ValueError(
                    "leave `max_steps_off_policy` out: it has no effect in `sync` mode"
                )
            return self
        if bound is None:
            raise ValueError(
                f"`{mode}` needs `max_steps_off_policy`: by how many steps the sampling weights "
                "may be older than the trained ones"
            )
        if mode == "one_step_off_async" and bound != 1:
            raise ValueError("`max_steps_off_policy` must be 1 in `one_step_off_async` mode")
        if (self.weight_sync_interval or 1) > bound:
            raise ValueError(
                f"`weight_sync_interval` is {self.weight_sync_interval}, above "
                f"`max_steps_off_policy`, {bound}, so that sampling would have to wait for training"
            )
        return self
