"""The settings of an evaluation."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dreadnode_api.http.schemas import Request, single_line
from dreadnode_api.pricing.ledger import MAX_USD
from dreadnode_api.training.config_schemas import SystemPrompt, refuse_without_effect
from dreadnode_api.training.refs import Ref, SplitName
from dreadnode_api.training.rl_schemas import NEW_TOKENS, TURNS, Recipe, StopText, new_tokens
from dreadnode_api.training.setting_metadata import (
    DATA,
    EVALUATION,
    ROLLOUTS,
    TRAINING,
    DefaultFrom,
    Needs,
)

MAX_MODELS = 16
ModelName = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(single_line)]
REWARD = Needs("reward_recipe")


class EvalConfig(Request):
    """The settings of an evaluation; a setting that is left out has a default.

    Every model gets the same rows: their answers' loss, and rewards of sampled completions if there
    is a reward. The job's `config` echoes every default.
    """

    models: Annotated[list[ModelName], DATA] = Field(
        min_length=1,
        max_length=MAX_MODELS,
        description="Models to evaluate: catalog ids, ids or names of jobs, `JOB@best`, "
        "`JOB@step-000100`, `tinker://` paths.",
    )
    include_base: Annotated[bool | None, EVALUATION] = Field(
        True, description="Evaluate the base model of each job as well, as the baseline."
    )
    dataset_ref: Annotated[Ref, DATA] = Field(description="Dataset to evaluate on.")
    split: Annotated[SplitName | None, DATA, DefaultFrom("the only split, or `validation`")] = (
        Field(None, description="Split of the dataset.", examples=["validation"])
    )
    limit: Annotated[int | None, DATA, DefaultFrom("all")] = Field(
        None, ge=1, le=10_000_000, description="Maximum number of rows, the first ones."
    )
    system_prompt: Annotated[
        SystemPrompt, DefaultFrom("the system prompt of the jobs, if they have the same one")
    ] = None
    strict: Annotated[bool | None, DATA] = Field(
        False, description="Refuse the job if a single row cannot be used."
    )
    max_sequence_length: Annotated[
        int | None,
        DATA,
        DefaultFrom(
            "the smallest context of the models, less one token",
            lambda settings, context: max(2, context - 1),
        ),
    ] = Field(
        None,
        ge=2,
        description="Maximum number of tokens of a row, or of a prompt and its completions.",
        examples=[2048],
    )
    loss: Annotated[bool | None, EVALUATION] = Field(
        True, description="Compute the loss of the answers in the rows."
    )
    train_on: Annotated[
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None,
        DATA,
        DefaultFrom(
            "that of the jobs if they have the same one, else `all_assistant_messages`",
            lambda settings, context: (
                "all_assistant_messages" if settings.get("loss", True) else None
            ),
        ),
    ] = Field(None, description="Which messages contribute to the loss.")
    reward_recipe: Annotated[Recipe | None, EVALUATION, DefaultFrom("none: only the loss")] = Field(
        None, description="Reward recipe that scores completions, or your own function."
    )
    environment: Annotated[Recipe | None, ROLLOUTS, REWARD] = Field(
        None, description="Environment with tools for completions of several turns."
    )
    max_turns: Annotated[
        int | None,
        ROLLOUTS,
        Needs("environment"),
        DefaultFrom(
            f"{TURNS} with an `environment`",
            lambda settings, context: TURNS if "environment" in settings else None,
        ),
    ] = Field(
        None, ge=1, le=1000, description="Maximum number of turns of a completion.", examples=[8]
    )
    samples: Annotated[
        int | None,
        ROLLOUTS,
        REWARD,
        DefaultFrom(
            "1 with a reward",
            lambda settings, context: 1 if "reward_recipe" in settings else None,
        ),
    ] = Field(
        None,
        ge=1,
        le=128,
        description="Completions per row; a row's reward is their mean.",
        examples=[1],
    )
    temperature: Annotated[
        float | None,
        ROLLOUTS,
        REWARD,
        DefaultFrom(
            "0 with one sample, 1 with several",
            lambda settings, context: (
                float(settings["samples"] > 1) if "samples" in settings else None
            ),
        ),
    ] = Field(
        None,
        ge=0,
        le=10,
        description="Sampling temperature; 0 always takes the most likely token.",
        examples=[0.0],
    )
    max_tokens: Annotated[
        int | None,
        ROLLOUTS,
        REWARD,
        DefaultFrom(
            f"{NEW_TOKENS}, at most half of `max_sequence_length`",
            lambda settings, context: (
                new_tokens(settings, context) if "reward_recipe" in settings else None
            ),
        ),
    ] = Field(
        None, ge=1, description="Maximum number of tokens of a completion.", examples=[NEW_TOKENS]
    )
    stop: Annotated[list[StopText] | None, ROLLOUTS, REWARD] = Field(
        None, max_length=16, description="Strings that end a completion.", examples=[["\n\n"]]
    )
    seed: Annotated[int | None, ROLLOUTS] = Field(
        0, ge=0, lt=2**31, description="Random seed of the sampling, the same for every model."
    )
    max_cost_usd: Annotated[float | None, TRAINING] = Field(
        None,
        gt=0,
        le=MAX_USD,
        description="Maximum cost in US dollars, retries included: the job stops after the rows "
        "under way when it reaches it, and reports the finished rows.",
        examples=[5.0],
    )

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        refuse_without_effect(self)
        if self.loss is False:
            if self.reward_recipe is None:
                raise ValueError(
                    "set `loss` or name a `reward_recipe`; there is nothing to measure"
                )
            if self.train_on is not None:
                raise ValueError("`train_on` has no effect without `loss`; set `loss`")
        if self.temperature == 0 and (self.samples or 1) > 1:
            raise ValueError(
                "`temperature` 0 samples the same completion each time; set it above 0, or "
                "`samples` to 1"
            )
        return self
