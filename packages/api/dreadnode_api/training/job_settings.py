"""The settings of jobs, read from the request models, for all that lists them.

`make docs` generates the job-file schema, the flags, the SDK's types and tables from them; the
console shows them as fields of a form.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dreadnode_api.training import setting_metadata as metadata
from dreadnode_api.training.schemas import EvalJobRequest, RlJobRequest, SftJobRequest

REQUESTS: dict[str, type[BaseModel]] = {
    "sft": SftJobRequest,
    "rl": RlJobRequest,
    "eval": EvalJobRequest,
}
GROUPS = ("Data", "Training", "Rollouts", "Optimizer", "Evaluation", "Tracking")
FIRST = (
    *(
        "models",
        "dataset_ref",
        "split",
        "prompt_dataset_ref",
        "prompt_split",
        "trajectory_dataset_refs",
    ),
    *("algorithm", "reward_recipe"),
)
"""What comes first in its group, since a job cannot do without it."""
FIXED = ("base_model", "backend", "trainer_type", "config")
"""Fields of a request that are another name of a setting, or follow from the kind of the job."""
FLAGS = {
    "models": "MODEL",
    "dataset_ref": "--dataset",
    "prompt_dataset_ref": "--prompt-dataset",
    "trajectory_dataset_refs": "--trajectory-dataset",
    "eval_dataset_ref": "--eval-dataset",
    "capability_ref": "--capability",
    "tags": "--tag",
}
"""Flags and arguments of `dn train` that are not called as their settings are."""

_KINDS = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "string"}
_CONSTRAINTS = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "minLength": "min_length",
    "maxLength": "max_length",
    "maxItems": "max_length",
}


@dataclass(frozen=True)
class Setting:
    """One setting of a job.

    Attributes:
        name: What the request calls it.
        kind: integer, number, boolean, string, list (of strings), ref, refs or recipe.
        help: What it does, in one sentence.
        group: The heading under which it is shown.
        required: Whether every job has it.
        default: The default, if it is the same for every job; None otherwise.
        default_text: The default in words, where it depends on something.
        choices: The values that it may have, where they are listed.
        constraints: Bounds of the value, by the name of pydantic's argument.
        item_constraints: Bounds of each value of a list.
        needs: Another setting without which this one has no effect.
        example: A value, where there is no default.
    """

    name: str
    kind: str
    help: str
    group: str = "Job"
    required: bool = False
    default: Any = None
    default_text: str = ""
    choices: tuple[str, ...] = ()
    constraints: dict[str, float] = field(default_factory=dict)
    item_constraints: dict[str, float] = field(default_factory=dict)
    needs: str = ""
    example: Any = None

    @property
    def flag(self) -> str:
        """The flag of `dn train` that sets it."""
        return FLAGS.get(self.name, f"--{self.name.replace('_', '-')}")

    def default_shown(self) -> str:
        """Return the default as the documentation states it; nothing where there is none."""
        if self.default_text or self.default in (None, []):
            return self.default_text
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def bounds(self) -> str:
        """Return the bounds of the value in words; nothing where there are none."""
        limits, unit = self.constraints, {"string": " characters", "list": " values"}
        if most := limits.get("max_length"):
            return f"at most {most:,}{unit.get(self.kind, ' values')}"
        if {"ge", "le"} <= set(limits):
            return f"{limits['ge']:,} to {limits['le']:,}"
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        return ", ".join(f"{text} {limits[key]:,}" for key, text in words.items() if key in limits)


@dataclass(frozen=True)
class Kind:
    """One kind of job, with its settings.

    Attributes:
        name: sft, rl or eval.
        doc: What the request's model says of itself.
        config_doc: What the config's model says of itself.
        job: Settings of the job.
        config: Settings of its training, in the order of the model.
    """

    name: str
    doc: str
    config_doc: str
    job: list[Setting]
    config: list[Setting]

    def grouped(self) -> list[Setting]:
        """Return the settings of its training, group by group."""
        return sorted(self.config, key=_place)


def _place(setting: Setting) -> tuple[int, int]:
    first = FIRST.index(setting.name) if setting.name in FIRST else len(FIRST)
    return GROUPS.index(setting.group), first


def kinds() -> list[Kind]:
    """Return every kind of job."""
    return [kind(name) for name in REQUESTS]


@cache
def kind(name: str) -> Kind:
    """Return the kind of jobs called NAME."""
    request = REQUESTS[name]
    described = request.model_json_schema()
    types = described["$defs"]
    config = request.model_fields["config"].annotation
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise TypeError(f"the config of {request.__name__} is not a model")
    properties = types[config.__name__]["properties"]
    return Kind(
        name,
        inspect.getdoc(request) or "",
        inspect.getdoc(config) or "",
        job=[
            _setting(each, request.model_fields[each], found, types)
            for each, found in described["properties"].items()
            if each not in FIXED
        ],
        config=[
            _setting(each, found, properties[each], types)
            for each, found in metadata.offered(config)
        ],
    )


def _setting(
    name: str, field_: FieldInfo, described: dict[str, Any], types: dict[str, Any]
) -> Setting:
    value = {**described, **_not_null(described)}
    group = metadata.mark(field_, metadata.Group)
    default_from = metadata.mark(field_, metadata.DefaultFrom)
    needs = metadata.mark(field_, metadata.Needs)
    choices = metadata.mark(field_, metadata.Choices)
    if not (field_.description or "").strip():
        raise ValueError(f"the setting `{name}` has no description")
    return Setting(
        name,
        _kind_of(value, types),
        str(field_.description),
        group=group.title if group else "Job",
        # The other name of the field may be used in its place, so that the model lets it be null.
        required=field_.is_required() or name == "model",
        default=None if field_.is_required() else field_.get_default(call_default_factory=False),
        default_text=default_from.text if default_from else "",
        choices=choices.values if choices else tuple(_choices(value)),
        constraints=_constraints(value),
        item_constraints=_constraints(value.get("items", {})),
        needs=needs.setting if needs else "",
        example=(field_.examples or [None])[0],
    )


def _constraints(value: dict[str, Any]) -> dict[str, float]:
    found = {_CONSTRAINTS[key]: each for key, each in value.items() if key in _CONSTRAINTS}
    if value.get("type") == "integer" and "lt" in found:
        found["le"] = found.pop("lt") - 1
    return found


def _not_null(described: dict[str, Any]) -> dict[str, Any]:
    found = [each for each in described.get("anyOf", ()) if each.get("type") != "null"]
    return found[0] if found else {}


def _choices(value: dict[str, Any]) -> Iterator[str]:
    yield from value.get("enum") or value.get("items", {}).get("enum") or ()


def _kind_of(value: dict[str, Any], types: dict[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2].lower()
    if value["type"] == "array":
        return "refs" if "$ref" in value["items"] else "list"
    return _KINDS[value["type"]]
