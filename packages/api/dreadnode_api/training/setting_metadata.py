"""The metadata of a job setting besides type, bounds and help: group, needs, and default.

The request models carry these marks in `Annotated`. `defaults.py` resolves a job's config from
them, and `make docs` writes the job-file schema, the flags, the SDK's types and the tables of the
documentation from the same fields.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Mark = TypeVar("Mark")


@dataclass(frozen=True, slots=True)
class Group:
    """A heading under which `--help` and the documentation show a setting."""

    title: str


TRAINING = Group("Training")
DATA = Group("Data")
ROLLOUTS = Group("Rollouts")
OPTIMIZER = Group("Optimizer")
EVALUATION = Group("Evaluation")
TRACKING = Group("Tracking")


@dataclass(frozen=True, slots=True)
class DefaultFrom:
    """A default that depends on the model or on other settings.

    Attributes:
        text: How the documentation states it.
        value: Returns the default, given the settings that are known so far and the model's
            context length; None means "not set". Without it, another module resolves the default.
    """

    text: str
    value: Callable[[Mapping[str, Any], int], Any] | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """Another setting without which this one has no effect."""

    setting: str


@dataclass(frozen=True, slots=True)
class Choices:
    """The values to offer where the API takes any string, to refuse the others in its own words."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotOffered:
    """A field that is understood only to refuse it; `instead` says why and what to use."""

    instead: str


def mark(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    """Return the mark of KIND that FIELD carries, if it has one."""
    return next((each for each in field.metadata if isinstance(each, kind)), None)


def offered(config: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the name and the field of each setting of CONFIG that a job may have."""
    for name, field in config.model_fields.items():
        if mark(field, NotOffered) is None:
            yield name, field
