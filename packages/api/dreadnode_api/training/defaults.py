"""The defaults of a job's settings, resolved from the request models."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dreadnode_api.training.eval_schemas import EvalConfig
from dreadnode_api.training.rl_schemas import RlConfig
from dreadnode_api.training.setting_metadata import DefaultFrom, mark, offered
from dreadnode_api.training.sft_schemas import SftConfig

KINDS: dict[str, type[BaseModel]] = {"sft": SftConfig, "rl": RlConfig, "eval": EvalConfig}
RESOLVED_ELSEWHERE = {"track", "track_project"}
"""Settings whose default is the server's own: `tracking.py` resolves them."""


def with_defaults(kind: type[BaseModel], given: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Return the settings in GIVEN with every default of KIND filled in.

    Fields are resolved in the order of the model, so that a default may depend on those above it
    and on everything in GIVEN.

    Args:
        kind: The config's model.
        given: Settings as JSON values; a setting that is missing or null has its default.
        context: How many tokens the model takes.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for name, field in offered(kind):
        if name in values or name in RESOLVED_ELSEWHERE:
            continue
        default = _default(field, values, context)
        if default is not None:
            values[name] = default
    ordered = {name: values[name] for name in kind.model_fields if name in values}
    return ordered | values


def resolve(config: BaseModel, context: int) -> dict[str, Any]:
    """Return CONFIG with every default filled in, for a model that takes CONTEXT tokens."""
    given = config.model_dump(include=config.model_fields_set - RESOLVED_ELSEWHERE, mode="json")
    return with_defaults(type(config), given, context)


def complete(trainer_type: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the STORED config of a job with the defaults of settings that it does not have.

    The server resolves every default when it creates a job. A job that was created before an
    upgrade lacks the settings that are new, and the runtime has no defaults of its own.
    """
    return with_defaults(KINDS[trainer_type], stored, int(stored["max_sequence_length"]))


def default_names(trainer_type: str, config: Mapping[str, Any]) -> frozenset[str]:
    """Return the settings in a job's CONFIG that have their default.

    A setting that was given with the value of its default counts as one that has it.
    """
    context = int(config.get("max_sequence_length") or 0)
    kind = KINDS[trainer_type]
    found = set()
    for name, field in offered(kind):
        if name not in config or name in RESOLVED_ELSEWHERE:
            continue
        # A default may depend on the settings above, and on all that were given.
        others = {n: v for n, v in config.items() if n != name}
        if _default(field, others, context) == config[name]:
            found.add(name)
    return frozenset(found)


def _default(field: FieldInfo, others: dict[str, Any], context: int) -> Any:
    """Return the default of a setting, given the OTHERS and how many tokens the model takes."""
    rule = mark(field, DefaultFrom)
    if rule is not None and rule.value is not None:
        return rule.value(others, context)
    return field.get_default(call_default_factory=True, validated_data=others)
