"""Null arguments of tool calls: what the tool's schema knows stays, what Arrow added goes.

Arrow gives every object of a column the fields of all others, so a call that was stored in Parquet
holds a null for each argument of every other tool.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_CHOICES = ("anyOf", "oneOf", "allOf")


def without_foreign_nulls(arguments: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Return ARGUMENTS without the null fields that SCHEMA, the tool's own, does not have."""
    kept: dict[str, Any] = _kept(arguments, [schema], schema)
    return kept


def _kept(value: Any, schemas: list[Any], root: Any) -> Any:
    """Return VALUE without foreign nulls; each of SCHEMAS may describe it."""
    seen: set[int] = set()
    known = [each for schema in schemas for each in _resolved(schema, root, seen)]
    if isinstance(value, list):
        items = [each.get("items") for each in known]
        return [_kept(each, items, root) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, each in value.items():
        own = [found for schema in known if (found := _field(schema, name)) is not None]
        if each is not None or own:
            kept[name] = _kept(each, own, root)
    return kept


def _resolved(schema: Any, root: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Yield SCHEMA and those that it refers to or chooses from, which describe the same value.

    SEEN holds those that were yielded: a schema may refer to itself.
    """
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        yield from _resolved(_referred(reference, root), root, seen)
    for key in _CHOICES:
        choices = schema.get(key)
        for each in choices if isinstance(choices, list) else ():
            yield from _resolved(each, root, seen)


def _referred(reference: str, root: Any) -> Any:
    """Return what REFERENCE, such as `#/$defs/Place`, names in ROOT; None if that is nothing."""
    at = root
    for name in reference.removeprefix("#/").split("/"):
        at = at.get(name) if isinstance(at, Mapping) else None
    return at


def _field(schema: Mapping[str, Any], name: str) -> Any:
    """Return the schema of the field NAME in SCHEMA; None where it does not have the field."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    others = schema.get("additionalProperties")
    return others if isinstance(others, Mapping) else None
