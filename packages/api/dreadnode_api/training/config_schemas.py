"""What the config of every kind of job may hold; the job file that `dn` writes is made from it."""

from typing import Annotated, Literal

from pydantic import Field

from dreadnode_api.http.schemas import Request
from dreadnode_api.training.refs import Ref, SplitName
from dreadnode_api.training.tracking import Project, Tracker

Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Request):
    """The settings of any training; what is left out has a default, echoed in the job.

    Bounds that depend on the model (`lora_rank`, `max_sequence_length`) are checked against it.
    """

    eval_dataset_ref: Ref | None = Field(
        None, description="What is evaluated on; with `eval_split` alone, the same dataset"
    )
    eval_split: SplitName | None = Field(
        None,
        description="Of the data to evaluate on; the only one, or `validation`, if left out",
        examples=["validation"],
    )
    eval_interval: int | None = Field(
        None, ge=1, le=10_000_000, description="Steps between evaluations", examples=[10]
    )
    system_prompt: str | None = Field(
        None,
        min_length=1,
        max_length=100_000,
        description="Goes before every conversation",
        examples=["You are brief."],
    )
    steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Steps, at most", examples=[100]
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Times through the data; 1 if `steps` is not given either",
        examples=[1],
    )
    lora_rank: int | None = Field(None, ge=1, le=1024, description="Rank of the adapter")
    lora_alpha: int | None = Field(None, description="Not offered here: Tinker fixes it")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Of the Adam optimizer, at its highest"
    )
    learning_rate_schedule: Literal["constant", "linear", "cosine"] | None = Field(
        None, description="How the learning rate goes on after the warm-up"
    )
    warmup_steps: int | None = Field(
        None, ge=0, le=10_000_000, description="Steps in which the learning rate rises"
    )
    weight_decay: float | None = Field(
        None, ge=0, le=1, description="Share by which weights shrink, times the learning rate"
    )
    grad_clip_norm: float | None = Field(
        None, ge=0, description="Largest norm of a step's gradient; 0 is no limit"
    )
    adam_beta1: Fraction | None = Field(None, description="Decay of the gradient's mean")
    adam_beta2: Fraction | None = Field(None, description="Decay of the gradient's variance")
    adam_eps: float | None = Field(
        None, gt=0, le=1, description="What keeps the division from going wrong"
    )
    checkpoint_interval: int | None = Field(
        None, ge=1, le=10_000_000, description="Steps between checkpoints"
    )
    shuffle: bool | None = Field(
        None, description="Take the rows in an order that the seed makes, not in the file's"
    )
    strict: bool | None = Field(None, description="Refuse the job for one unusable row")
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Of the data's order and the adapter's first weights"
    )
    track: list[Tracker] | None = Field(
        None,
        max_length=3,
        description="Where to follow the run; the server decides if left out",
        examples=[["tensorboard"]],
    )
    track_project: Project | None = Field(
        None, description="Under which project, or experiment; needs `track`", examples=["harbour"]
    )

    def refuse_alpha(self) -> None:
        """Return if the config leaves alone what the engine would ignore.

        Raises:
            ValueError: it sets the adapter's alpha.
        """
        if self.lora_alpha is not None:
            raise ValueError(
                "leave `lora_alpha` out: Tinker fixes it, so that a value would have no effect"
            )
