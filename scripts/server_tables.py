"""The tables of the server's and the engine's settings, from their models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from dreadnode_api.setting_types import Unit
from dreadnode_api.settings import SECTIONS, Settings, variable
from dreadnode_engine.settings import Settings as EngineSettings
from pydantic.fields import FieldInfo
from settings_tables import row

_SEPARATOR = "| --- | --- | --- | --- | --- |"
_TYPES: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_TYPES[Path] = "path"


def server_table() -> dict[str, str]:
    """Return the table of the server's settings."""
    lines = ["| variable | type | default | bounds | description |", _SEPARATOR]
    for name, field in Settings.model_fields.items():
        if field.exclude:
            continue
        if name in SECTIONS:
            lines.append(f"| **{SECTIONS[name]}** | | | | |")
        lines.append(row(_server_cells(name, field)))
    return {"server settings": "\n".join(lines) + "\n"}


def _server_cells(name: str, field: FieldInfo) -> Iterator[str]:
    unit = next((each.name for each in field.metadata if isinstance(each, Unit)), "")
    choices = [each for each in get_args(field.annotation) if isinstance(each, str) and each]
    yield f"`{variable(name)}`"
    if choices:
        yield ", ".join(f"`{choice}`" for choice in choices)
    else:
        yield unit or _TYPES.get(field.annotation, "words")
    yield _default(name, field, unit)
    yield next((_bound(each) for each in field.metadata if isinstance(each, Ge | Gt)), "")
    yield str(field.description)


def _default(name: str, field: FieldInfo, unit: str) -> str:
    default = field.default
    if field.is_required():
        return "required"
    if name == "runtime_command":
        return "this Python, `-m dreadnode_runtime`"
    if default in ("", (), None):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if unit == "bytes":
        return _scaled(default, {"GiB": 1024**3, "MiB": 1024**2})
    if unit == "seconds":
        return _scaled(default, {"d": 86400, "h": 3600, "m": 60}, "s")
    if unit == "days":
        return f"{default:g} d"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _scaled(number: float, units: dict[str, int], smallest: str = "") -> str:
    for unit, size in units.items():
        if number >= size and number % size == 0:
            return f"{number // size:g} {unit}"
    return f"{number:g} {smallest}".strip()


def engine_table() -> dict[str, str]:
    """Return the table of the engine's settings, which are flags of `dn engine serve`."""
    lines = ["| flag | type | default | bounds | description |", _SEPARATOR]
    for name, field in EngineSettings.model_fields.items():
        lines.append(row(_engine_cells(name, field)))
    return {"engine settings": "\n".join(lines) + "\n"}


def _engine_cells(name: str, field: FieldInfo) -> Iterator[str]:
    kinds = [each for each in get_args(field.annotation) if each is not NoneType]
    choices = [each for kind in kinds for each in get_args(kind) if isinstance(each, str)]
    choices = choices or [each for each in kinds if isinstance(each, str)]
    text, _, in_words = str(field.description).partition(" Default: ")
    yield f"`--{name.replace('_', '-')}`"
    if choices:
        yield ", ".join(f"`{choice}`" for choice in choices)
    elif get_origin(field.annotation) is tuple:
        yield "list of strings"
    elif name.endswith("_seconds"):
        yield "seconds"
    else:
        yield _TYPES[kinds[0] if kinds else field.annotation]
    yield in_words.removesuffix(".") or _default(
        name, field, "seconds" if name.endswith("_seconds") else ""
    )
    bounds = [_bound(each) for each in field.metadata if isinstance(each, Ge | Gt | Le | Lt)]
    yield re.sub(r"^at least (\S+), at most ", r"\1 to ", ", ".join(bounds))
    yield text


def _bound(bound: Ge | Gt | Le | Lt) -> str:
    match bound:
        case Gt():
            return f"above {bound.gt:,}"
        case Ge():
            return f"at least {bound.ge:,}"
        case Lt():
            return f"below {bound.lt:,.0f}"
        case Le():
            return f"at most {bound.le:,}"
