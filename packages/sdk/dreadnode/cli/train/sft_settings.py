"""The numbers and choices of a fine-tuning job, as flags; the server fills in what is left out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from dreadnode.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import BaseModel

TRAINING = Group("Training", sort_key=10)
OPTIMIZER = Group("Optimizer", sort_key=11)
EVALUATION = Group("Evaluation", sort_key=12)
FOLLOWING = Group("Following", sort_key=13)


def given(flags: DataclassInstance, kind: type[BaseModel]) -> dict[str, Any]:
    """Return those of FLAGS that were given, if KIND, which has a field for each, takes them.

    Raises:
        InputError: It does not; the sentence names the flag.
    """
    from pydantic import ValidationError

    from dreadnode.job_files.job_file import must, shown

    values = {each.name: getattr(flags, each.name) for each in fields(flags)}
    values = {name: value for name, value in values.items() if value is not None}
    try:
        kind.model_validate(values)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            if each["type"] != "missing":  # Those are other flags'.
                flag = f"--{str(each['loc'][0]).replace('_', '-')}"
                raise InputError(
                    f"`{flag}` must be {must(each)}, and is {shown(each['input'])}"
                ) from None
    return values


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags of `dn train sft` that go into the job's configuration."""

    steps: int | None = None
    """Optimizer steps, at most."""

    epochs: int | None = None
    """Times through the data."""

    batch_size: int | None = None
    """Rows in a batch."""

    gradient_accumulation_steps: int | None = None
    """Batches for each optimizer step."""

    lora_rank: int | None = None
    """Rank of the adapter."""

    max_sequence_length: int | None = None
    """Tokens of a row that are kept; longer rows lose their end."""

    train_on: (
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None
    ) = None
    """Which words of a conversation are learned."""

    system_prompt: str | None = None
    """A prompt that goes before every row."""

    strict: bool | None = None
    """Refuse the job for a single row that cannot be used."""

    shuffle: Annotated[bool | None, Parameter(negative="--no-shuffle")] = None
    """Take the rows in an order that the seed makes, and not in the file's."""

    seed: int | None = None
    """Of the data's order and the adapter's start."""

    checkpoint_interval: int | None = None
    """Steps between checkpoints."""

    learning_rate: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Of the Adam optimizer, at its highest."""

    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"] | None, Parameter(group=OPTIMIZER)
    ] = None
    """How the learning rate goes on after the warm-up."""

    warmup_steps: Annotated[int | None, Parameter(group=OPTIMIZER)] = None
    """Steps in which the learning rate rises."""

    weight_decay: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Share by which weights shrink, times the learning rate."""

    grad_clip_norm: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Longest gradient; 0 is no limit."""

    adam_beta1: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Decay of the gradient's mean."""

    adam_beta2: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """Decay of the gradient's variance."""

    adam_eps: Annotated[float | None, Parameter(group=OPTIMIZER)] = None
    """What keeps the division from going wrong."""

    eval_interval: Annotated[int | None, Parameter(group=EVALUATION)] = None
    """Steps between evaluations."""

    early_stopping_patience: Annotated[int | None, Parameter(group=EVALUATION)] = None
    """Evaluations without a better loss after which the job ends."""

    early_stopping_min_delta: Annotated[float | None, Parameter(group=EVALUATION)] = None
    """By how much a loss must be lower to be better."""

    track: Annotated[
        tuple[Literal["tensorboard", "mlflow", "wandb"], ...] | None,
        Parameter(group=FOLLOWING, negative="--no-track"),
    ] = None
    """Follow the run there too, where the server is set up for it; may be given again."""

    track_project: Annotated[str | None, Parameter(group=FOLLOWING)] = None
    """Under which project, experiment or folder the run is followed."""

    def given(self) -> dict[str, Any]:
        """Return what was given; what depends on the model, the server knows.

        Raises:
            InputError: A number can mean nothing.
        """
        from dreadnode.training.jobs import SftConfig

        return given(self, SftConfig)


NONE = Settings()
