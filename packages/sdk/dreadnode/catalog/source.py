"""The catalog's table as Python source: how a refresh writes it, in one layout for all entries."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass

from dreadnode.catalog.types import TrainingModel

_DAY = "CATALOG_AS_OF = "
_BEGIN = "TINKER_MODELS: tuple[TrainingModel, ...] = ("
_END = "\n)\n"
_WIDTH = 100


def render_table(models: Sequence[TrainingModel]) -> str:
    """Return the statement that assigns MODELS to ``TINKER_MODELS``, as the formatter leaves it."""
    entries = "".join(f"\n    {_split(model, 4)}," for model in models)
    return _BEGIN + entries + _END


def replace_table(source: str, models: Sequence[TrainingModel], as_of: str) -> str:
    """Return the text of ``models.py`` with its table and its day replaced, and nothing else.

    Raises:
        ValueError: When SOURCE does not hold the day and the table where they belong.
    """
    head, day, rest = source.partition(_DAY)
    between, begin, rest = rest.partition("\n")[2].partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (day and begin and end):
        raise ValueError(f"the source has no line `{_DAY}…` followed by a table `{_BEGIN}`")
    return f'{head}{day}"{as_of}"\n{between}{render_table(models)}{tail}'


def _source(value: object, indent: int, used: int) -> str:
    """Return VALUE as source that begins at column USED of a line indented by INDENT."""
    flat = _flat(value)
    return flat if used + len(flat) < _WIDTH else _split(value, indent)


def _flat(value: object) -> str:
    if is_dataclass(value):
        stated = (f"{name}={_flat(item)}" for name, item in _stated(value).items())
        return f"{type(value).__name__}({', '.join(stated)})"
    if isinstance(value, tuple):
        items = ", ".join(_flat(item) for item in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    return _quote(value) if isinstance(value, str) else repr(value)


def _split(value: object, indent: int) -> str:
    """Return VALUE with one part on each line, between brackets."""
    deeper = indent + 4
    if is_dataclass(value):
        opening = f"{type(value).__name__}("
        lines = [
            f"{name}={_source(item, deeper, deeper + len(name) + 1)},"
            for name, item in _stated(value).items()
        ]
    elif isinstance(value, tuple):
        opening = "("
        lines = [f"{_source(item, deeper, deeper)}," for item in value]
    elif isinstance(value, str):
        opening = "("
        lines = [_quote(part) for part in _wrap(value, _WIDTH - deeper - 2)]
    else:
        return repr(value)
    inside = "".join(f"{' ' * deeper}{line}\n" for line in lines)
    return f"{opening}\n{inside}{' ' * indent})"


def _wrap(text: str, width: int) -> list[str]:
    """Split TEXT into parts that join to it again."""
    return textwrap.wrap(text, width, drop_whitespace=False, break_on_hyphens=False)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\")
    if '"' in escaped and "'" not in escaped:
        return f"'{escaped}'"
    return '"' + escaped.replace('"', '\\"') + '"'


def _stated(value: object) -> dict[str, object]:
    """Return the fields of a dataclass instance that differ from their defaults."""
    held = ((field, getattr(value, field.name)) for field in fields(value))  # type: ignore[arg-type]
    return {
        field.name: item
        for field, item in held
        if field.default is MISSING or item != field.default
    }
