"""The settings of a supervised fine-tuning job."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dreadnode_api.training.config_schemas import TrainConfig
from dreadnode_api.training.refs import Ref, SplitName, evaluated
from dreadnode_api.training.setting_metadata import DATA, EVALUATION, TRAINING, DefaultFrom, Needs

SEQUENCE_LENGTH = 2048


class SftConfig(TrainConfig):
    """The settings of supervised fine-tuning; a setting that is left out has a default.

    The job's `config` echoes every default. Bounds that depend on the model (`lora_rank`,
    `max_sequence_length`) are checked against it.
    """

    dataset_ref: Annotated[
        Ref | None, DATA, DefaultFrom("required, unless `trajectory_dataset_refs` is set")
    ] = Field(None, description="Training dataset.")
    split: Annotated[
        SplitName | None, DATA, Needs("dataset_ref"), DefaultFrom("the only split, or `train`")
    ] = Field(None, description="Split of the training dataset.", examples=["train"])
    trajectory_dataset_refs: Annotated[list[Ref], DATA] = Field(
        [],
        max_length=16,
        description="Datasets of trajectories, trained on together with the training dataset.",
    )
    max_sequence_length: Annotated[
        int | None,
        TRAINING,
        DefaultFrom(
            f"{SEQUENCE_LENGTH}, or the model's context if that is less",
            lambda settings, context: min(SEQUENCE_LENGTH, context),
        ),
    ] = Field(
        None,
        ge=2,
        description="Maximum number of tokens per sequence; longer rows are truncated.",
        examples=[SEQUENCE_LENGTH],
    )
    batch_size: Annotated[int | None, TRAINING] = Field(
        16, ge=1, le=4096, description="Rows per forward-backward pass."
    )
    gradient_accumulation_steps: Annotated[int | None, TRAINING] = Field(
        1, ge=1, le=1024, description="Forward-backward passes per optimizer step."
    )
    train_on: Annotated[
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None,
        DATA,
    ] = Field("all_assistant_messages", description="Which messages contribute to the loss.")
    format: Annotated[Literal["conversations", "rendered", "text"] | None, DATA] = Field(
        "conversations",
        description="Row format: conversations in any common shape, text that is already rendered "
        "in the model's chat format, or plain text for continued pretraining.",
    )
    packed: Annotated[bool | None, DATA] = Field(
        False,
        description="Pack rows of text into sequences of the maximum length; "
        "for the formats `rendered` and `text`.",
    )
    early_stopping_patience: Annotated[int | None, EVALUATION, Needs("eval_interval")] = Field(
        None,
        ge=1,
        le=10_000,
        description="Stop after this many evaluations without improvement.",
        examples=[3],
    )
    early_stopping_min_delta: Annotated[
        float | None,
        EVALUATION,
        Needs("early_stopping_patience"),
        DefaultFrom(
            "0 if `early_stopping_patience` is set",
            lambda settings, context: 0.0 if "early_stopping_patience" in settings else None,
        ),
    ] = Field(
        None,
        ge=0,
        description="Decrease of the evaluation loss that counts as an improvement.",
        examples=[0.01],
    )

    @model_validator(mode="before")
    @classmethod
    def _evaluated(cls, value: Any) -> Any:
        return evaluated(value, "dataset_ref")

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        if self.format in (None, "conversations"):
            if self.packed:
                raise ValueError("`packed` needs the `format` `text` or `rendered`")
            return self
        for name in ("train_on", "system_prompt"):
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` is for conversations, and the `format` is `{self.format}`; "
                    f"leave `{name}` out"
                )
        return self

    @model_validator(mode="after")
    def _names_data(self) -> Self:
        if self.dataset_ref is None and not self.trajectory_dataset_refs:
            raise ValueError(
                "name the training dataset in `dataset_ref`, or datasets of trajectories in "
                "`trajectory_dataset_refs`"
            )
        return self
