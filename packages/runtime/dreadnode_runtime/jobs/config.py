"""What a job may set: every key takes effect or is refused."""

import math
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dreadnode_runtime.backend.trainer import Optimizer
from dreadnode_runtime.control.trackers import PACKAGES, TITLES, Name, missing
from dreadnode_runtime.errors import JobFailed

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DatasetRef(BaseModel):
    """A dataset of the job's organization."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class TrainingConfig(BaseModel):
    """What every kind of job may set, with the defaults of a server that leaves it out.

    Attributes:
        eval_split: Of the evaluation data; the server's choice if none.
        lora_rank: Of the adapter.
        max_sequence_length: Tokens of a sequence.
        learning_rate: Of Adam, at its highest.
        learning_rate_schedule: What it does after the warm-up; `linear` and `cosine` end near 0.
        warmup_steps: Steps in which it rises to its highest, in equal parts.
        weight_decay: Of Adam, decoupled from the gradient.
        grad_clip_norm: Largest norm of a step's gradient, which adds up over its rows; 0 for no
            limit.
        checkpoint_interval: Optimizer steps between checkpoints.
        eval_interval: Optimizer steps between evaluations; without it there is one, at the end.
        system_prompt: Goes in front of every conversation.
        shuffle: Whether each epoch has an order of its own, or always that of the file.
        strict: Whether one unusable row refuses the job.
        seed: Of the adapter's first weights, of the order of the rows, and of sampling.
        track: Where else the run can be followed.
        track_project: Under which project, experiment or folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    eval_dataset_ref: DatasetRef | None = None
    eval_split: str | None = None
    lora_rank: Positive = 16
    max_sequence_length: Annotated[int, Field(ge=2)] = 2048
    steps: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NotNegative = 0.0
    grad_clip_norm: NotNegative = 0.0
    checkpoint_interval: Positive = 10
    eval_interval: Positive | None = None
    system_prompt: str | None = None
    shuffle: bool = True
    strict: bool = False
    seed: int = 0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    track: tuple[Name, ...] = ()
    track_project: str | None = None

    @model_validator(mode="after")
    def _an_interval_needs_data(self) -> Self:
        if self.eval_interval is not None and self.eval_dataset_ref is None:
            raise ValueError("`eval_interval` needs `eval_dataset_ref`")
        return self

    def optimizer(self) -> Optimizer:
        """Return Adam's settings."""
        return Optimizer(
            beta1=self.adam_beta1,
            beta2=self.adam_beta2,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
            grad_clip_norm=self.grad_clip_norm,
        )

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of optimizer step STEP, from 1, of STEPS.

        The decay is tinker-cookbook's, over the steps that follow the warm-up.
        """
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.learning_rate_schedule == "constant":
            return self.learning_rate
        done = (step - 1 - self.warmup_steps) / (steps - self.warmup_steps)
        if self.learning_rate_schedule == "linear":
            return self.learning_rate * (1 - done)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


class SftConfig(TrainingConfig):
    """A supervised job's settings.

    Attributes:
        dataset_ref: What is trained on.
        split: Which split of it; the server's choice if none.
        max_sequence_length: Tokens of a sequence; the rest is cut off at its end.
        batch_size: Rows of one forward-backward pass.
        gradient_accumulation_steps: Passes of one optimizer step.
        steps: Optimizer steps; with `epochs`, the fewer of the two; alone, as many as it says.
        epochs: Passes over the data; 1 when neither is given.
        grad_clip_norm: Largest norm of a step's gradient, the sum over its rows of each row's mean.
        early_stopping_patience: Evaluations without progress after which training ends.
        early_stopping_min_delta: By how much a loss must be lower to be progress.
        train_on: Which assistant messages of a conversation carry loss.
        format: What rows are: conversations, text that is rendered already, or plain text.
        packed: Whether rows of text share sequences, each filled to `max_sequence_length`.
    """

    dataset_ref: DatasetRef
    split: str | None = None
    batch_size: Positive = 16
    gradient_accumulation_steps: Positive = 1
    epochs: Positive | None = None
    early_stopping_patience: Positive | None = None
    early_stopping_min_delta: NotNegative = 0.0
    train_on: Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] = (
        "all_assistant_messages"
    )

    format: Literal["conversations", "rendered", "text"] = "conversations"
    packed: bool = False

    @model_validator(mode="after")
    def _early_stopping_needs_evaluations(self) -> Self:
        if self.early_stopping_patience is not None and self.eval_interval is None:
            raise ValueError("`early_stopping_patience` needs `eval_interval`")
        if self.early_stopping_min_delta and self.early_stopping_patience is None:
            raise ValueError("`early_stopping_min_delta` needs `early_stopping_patience`")
        return self

    @model_validator(mode="after")
    def _only_conversations_have_system_prompts(self) -> Self:
        if self.format != "conversations" and self.system_prompt:
            raise ValueError(
                f"a system prompt, or a capability, is for conversations, and the `format` is "
                f"`{self.format}`"
            )
        if self.format == "conversations" and self.packed:
            raise ValueError("`packed` needs the `format` `text` or `rendered`")
        return self

    def rows_per_step(self) -> int:
        """Return how many rows one optimizer step takes in."""
        return self.batch_size * self.gradient_accumulation_steps

    def total_steps(self, rows: int) -> int:
        """Return how many optimizer steps a job on ROWS usable rows has."""
        if self.steps is not None and self.epochs is None:
            return self.steps
        of_epochs = (self.epochs or 1) * -(-rows // self.rows_per_step())
        return of_epochs if self.steps is None else min(of_epochs, self.steps)


Config = TypeVar("Config", bound=TrainingConfig)


def check_trackers(config: TrainingConfig) -> None:
    """Return if every tracker that CONFIG names can be used here.

    Raises:
        JobFailed: A library is not installed.
    """
    if (name := missing(config.track)) is not None:
        raise JobFailed(
            f"{TITLES[name]} cannot follow runs here: its admin installs the package "
            f"`{PACKAGES[name]}` where jobs run; leave `{name}` out of `track`",
            code="config",
        )


def check_warmup(config: TrainingConfig, steps: int) -> None:
    """Return if a job of STEPS steps goes on when the learning rate has risen.

    Raises:
        JobFailed: Nothing of it is left after the warm-up.
    """
    if config.warmup_steps >= steps:
        raise JobFailed(
            f"`warmup_steps` is {config.warmup_steps}, and the job ends with step {steps}, before "
            "it is trained at the full learning rate; warm up for fewer steps",
            code="config",
        )


def read_config(kind: type[Config], given: dict[str, Any]) -> Config:
    """Return the settings in GIVEN; null and an empty list are the same as nothing.

    Raises:
        JobFailed: A key that this loop would ignore, or a value out of its range.
    """
    said = {key: value for key, value in given.items() if value is not None and value != []}
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":
            raise JobFailed(f"The setting {first['ctx']['error']}", code="config") from error
        if first["type"] == "extra_forbidden":
            raise JobFailed(
                f"The setting `{key}` has no effect in this loop; leave it out", code="config"
            ) from error
        raise JobFailed(f"The setting `{key}` is wrong: {first['msg']}", code="config") from error
