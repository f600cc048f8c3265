"""What a wish for a supervised job may hold."""

from typing import Any, Literal

from pydantic import Field, model_validator

from dreadnode_api.training.config_schemas import TrainConfig
from dreadnode_api.training.refs import Ref, SplitName, evaluated

_NEEDS = {
    "eval_interval": "eval_dataset_ref",
    "early_stopping_patience": "eval_interval",
    "early_stopping_min_delta": "early_stopping_patience",
}


class SftConfig(TrainConfig):
    """The settings of supervised fine-tuning; what is left out has a default, echoed in the job.

    Bounds that depend on the model (`lora_rank`, `max_sequence_length`) are checked against it.
    """

    dataset_ref: Ref | None = Field(None, description="What is trained on")
    split: SplitName | None = Field(
        None,
        description="Of the dataset; the only one, or `train`, if left out",
        examples=["train"],
    )
    trajectory_dataset_refs: list[Ref] = Field(
        default=[], max_length=16, description="Not offered here: name them in `dataset_ref`"
    )
    max_sequence_length: int | None = Field(
        None,
        ge=2,
        description="Tokens of a row that are kept, its end is cut off; 2048, or what the model "
        "takes, if left out",
        examples=[2048],
    )
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Rows of one forward-backward pass"
    )
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, le=1024, description="Passes of one optimizer step"
    )
    train_on: (
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None
    ) = Field(None, description="Which words of a conversation are learned")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Evaluations without progress after which training ends; needs `eval_interval`",
        examples=[3],
    )
    early_stopping_min_delta: float | None = Field(
        None,
        ge=0,
        description="By how much a loss must be lower to be progress; needs "
        "`early_stopping_patience`",
        examples=[0.01],
    )

    @model_validator(mode="before")
    @classmethod
    def _evaluated(cls, value: Any) -> Any:
        return evaluated(value, "dataset_ref")

    @model_validator(mode="after")
    def _sensible(self) -> "SftConfig":
        self.refuse_alpha()
        if self.trajectory_dataset_refs:
            raise ValueError(
                "trajectories are trained on through `dataset_ref`: push them as a dataset, "
                "one trajectory a row, and leave `trajectory_dataset_refs` out"
            )
        if self.dataset_ref is None:
            raise ValueError("name the dataset to train on in `dataset_ref`")
        for setting, needed in _NEEDS.items():
            if getattr(self, setting) is not None and getattr(self, needed) is None:
                raise ValueError(f"`{setting}` has no effect without `{needed}`; give both")
        return self
