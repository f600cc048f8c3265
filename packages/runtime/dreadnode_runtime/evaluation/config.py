"""The settings of an evaluation as the API resolved them, and the models that it compares."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from dreadnode_runtime.data.load_rendering import ChatFormat
from dreadnode_runtime.jobs.config import ConfigMismatch, DatasetRef, JobConfig


class EvalConfig(JobConfig):
    """The settings of an evaluation; None means "not set".

    `docs/reference/eval.md` describes them.
    """

    models: tuple[str, ...]
    include_base: bool
    dataset_ref: DatasetRef
    split: str | None = None
    limit: int | None = None
    loss: bool
    train_on: Literal[
        "all_assistant_messages", "last_assistant_message", "last_assistant_turn", None
    ] = None
    reward_recipe: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    max_turns: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


class EvaluatedModel(ChatFormat):
    """One of the models of an evaluation.

    Attributes:
        name: What the request calls it.
        base_model: Name of the base model on the engine.
        checkpoint: Path of the weights; None for the base model itself.
    """

    name: str
    base_model: str
    checkpoint: str | None = None

    @property
    def format(self) -> ChatFormat:
        """Its chat format."""
        return ChatFormat.model_validate(self.model_dump(include=set(ChatFormat.model_fields)))


def evaluated_models(artifacts: Mapping[str, Any]) -> list[EvaluatedModel]:
    """Return the models that the API has resolved.

    Raises:
        ConfigMismatch: They cannot be read.
    """
    try:
        return [EvaluatedModel.model_validate(each) for each in artifacts["models"]]
    except (KeyError, ValidationError) as error:
        raise ConfigMismatch(
            "The models of the evaluation cannot be read; install the same version of the API and "
            "the runtime"
        ) from error
