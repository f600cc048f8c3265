"""The settings of a job, as the API resolved them: typed, complete, and without defaults.

The API's request models hold every default and every bound. A setting that is missing here, or one
that this loop does not know, means that the API and the runtime are of different versions.
"""

import json
import math
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dreadnode_runtime.backend.trainer import Adapter, Optimizer
from dreadnode_runtime.control.trackers import PACKAGES, TITLES, Name, missing
from dreadnode_runtime.errors import JobFailed


class DatasetRef(BaseModel):
    """A dataset of the job's organization."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class ConfigMismatch(Exception):
    """The API sent settings that this runtime cannot read: the two are of different versions."""


class JobConfig(BaseModel):
    """The settings that every kind of job has, evaluations included; None means "not set"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system_prompt: str | None = None
    strict: bool
    max_sequence_length: int
    seed: int
    max_cost_usd: float | None = None


class TrainingConfig(JobConfig):
    """The settings that every kind of training has; None and an empty list mean "not set".

    `docs/reference/sft.md` and `rl.md` describe them.
    """

    eval_dataset_ref: DatasetRef | None = None
    eval_split: str | None = None
    eval_interval: int | None = None
    tokenizer: str | None = None
    steps: int | None = None
    epochs: int | None = None
    from_adapter: str | None = None
    lora_rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    learning_rate: float
    learning_rate_schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    weight_decay: float
    grad_clip_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    checkpoint_interval: int
    shuffle: bool
    trajectory_dataset_refs: tuple[DatasetRef, ...] = ()
    track: tuple[Name, ...] = ()
    track_project: str | None = None

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("`steps` or `epochs` must be set")
        return self

    def adapter(self) -> Adapter:
        """Return the shape and the seed of a new adapter."""
        return Adapter(
            rank=self.lora_rank,
            seed=self.seed,
            train_mlp=self.train_mlp,
            train_attn=self.train_attn,
            train_unembed=self.train_unembed,
        )

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

    def at_most(self, steps: int | None) -> Self:
        """Return these settings for a job that ends after STEPS steps, if it is not None."""
        if steps is None:
            return self
        return self.model_copy(update={"steps": min(steps, self.steps or steps)})

    def shorter(self, steps_of_epochs: int) -> int:
        """Return the number of steps, given those of all epochs: with both settings, the fewer."""
        if self.steps is None or self.epochs is None:
            return steps_of_epochs if self.steps is None else self.steps
        return min(steps_of_epochs, self.steps)


class SftConfig(TrainingConfig):
    """The settings of a supervised job."""

    dataset_ref: DatasetRef | None = None
    split: str | None = None
    batch_size: int
    gradient_accumulation_steps: int
    early_stopping_patience: int | None = None
    early_stopping_min_delta: float | None = None
    train_on: Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"]
    format: Literal["conversations", "rendered", "text"]
    packed: bool

    @property
    def min_delta(self) -> float:
        """The decrease of the evaluation loss that counts; any, where nothing stops early."""
        return self.early_stopping_min_delta or 0.0

    def rows_per_step(self) -> int:
        """Return how many rows one optimizer step takes in."""
        return self.batch_size * self.gradient_accumulation_steps

    def total_steps(self, rows: int) -> int:
        """Return how many optimizer steps a job on ROWS usable rows has."""
        return self.shorter((self.epochs or 0) * -(-rows // self.rows_per_step()))


Config = TypeVar("Config", bound=BaseModel)


def check_trackers(config: TrainingConfig) -> None:
    """Return if every tracker that CONFIG names can be used here.

    Raises:
        JobFailed: A library is not installed.
    """
    if (name := missing(config.track)) is not None:
        raise JobFailed(
            f"{TITLES[name]} cannot record runs here; install the package `{PACKAGES[name]}` where "
            f"jobs run, or leave `{name}` out of `track`",
            code="config",
        )


def check_warmup(config: TrainingConfig, steps: int) -> None:
    """Return if a job of STEPS steps trains at the full learning rate.

    Raises:
        JobFailed: It ends with the warm-up.
    """
    if config.warmup_steps >= steps:
        raise JobFailed(
            f"`warmup_steps` is {config.warmup_steps}, and the job has only {steps} steps, so that "
            "it never trains at the full learning rate; set fewer warm-up steps",
            code="config",
        )


def read_config(kind: type[Config], resolved: dict[str, Any]) -> Config:
    """Return the settings in RESOLVED, which the API sent.

    Raises:
        ConfigMismatch: A setting is missing, unknown or of another type.
    """
    try:
        return kind.model_validate_json(json.dumps(resolved), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "config"
        what = {
            "extra_forbidden": "is unknown to this runtime",
            "missing": "is missing",
        }.get(first["type"], f"cannot be read ({first['msg']})")
        raise ConfigMismatch(
            f"The setting `{name}` {what}; install the same version of the API and the runtime"
        ) from error
