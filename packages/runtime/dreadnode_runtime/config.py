"""What an SFT job may set: every key takes effect or is refused."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.trainer import Optimizer

Positive = Annotated[int, Field(gt=0)]


class DatasetRef(BaseModel):
    """A dataset of the job's organization."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class SftConfig(BaseModel):
    """A supervised job's settings, with the defaults of a server that leaves them out.

    Attributes:
        max_sequence_length: Tokens of a sequence; the rest is cut off at its end.
        batch_size: Rows of one forward-backward pass.
        gradient_accumulation_steps: Passes of one optimizer step.
        steps: Optimizer steps; with `epochs`, the fewer of the two; alone, as many as it says.
        epochs: Passes over the data; 1 when neither is given.
        learning_rate: Of Adam, at its highest.
        checkpoint_interval: Optimizer steps between checkpoints.
        seed: Of the adapter's first weights and of the order of the rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_ref: DatasetRef
    lora_rank: Positive = 16
    max_sequence_length: Annotated[int, Field(ge=2)] = 2048
    batch_size: Positive = 16
    gradient_accumulation_steps: Positive = 1
    steps: Positive | None = None
    epochs: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    checkpoint_interval: Positive = 10
    seed: int = 0
    system_prompt: str | None = None
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8

    def optimizer(self) -> Optimizer:
        """Return Adam's settings."""
        return Optimizer(beta1=self.adam_beta1, beta2=self.adam_beta2, eps=self.adam_eps)

    def rows_per_step(self) -> int:
        """Return how many rows one optimizer step takes in."""
        return self.batch_size * self.gradient_accumulation_steps

    def total_steps(self, rows: int) -> int:
        """Return how many optimizer steps a job on ROWS usable rows has."""
        if self.steps is not None and self.epochs is None:
            return self.steps
        of_epochs = (self.epochs or 1) * -(-rows // self.rows_per_step())
        return of_epochs if self.steps is None else min(of_epochs, self.steps)


def sft_config(given: dict[str, Any]) -> SftConfig:
    """Return the settings in GIVEN; null and an empty list are the same as nothing.

    Raises:
        JobFailed: A key that this loop would ignore, or a value out of its range.
    """
    said = {key: value for key, value in given.items() if value is not None and value != []}
    try:
        return SftConfig.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise JobFailed(
                f"The setting `{key}` has no effect in this loop; leave it out", code="config"
            ) from error
        raise JobFailed(f"The setting `{key}` is wrong: {first['msg']}", code="config") from error
