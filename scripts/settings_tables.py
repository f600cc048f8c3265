"""The tables of settings in the documentation, written between markers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt
from dreadnode_api.settings import SECTIONS, Settings, Unit, variable
from job_settings import Kind, Setting
from pydantic.fields import FieldInfo

_SECTION = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z -]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def with_tables(page: Path, tables: dict[str, str]) -> str:
    """Return the text of PAGE with every generated section brought up to date.

    Raises:
        SystemExit: A marker names a table that does not exist.
    """

    def filled(found: re.Match[str]) -> str:
        if found["name"] not in tables:
            line = found.string[: found.start()].count("\n") + 1
            raise SystemExit(f"error: {page}:{line}: there is no table `{found['name']}`")
        return f"{found['begin']}\n{tables[found['name']]}\n{found['end']}"

    return _SECTION.sub(filled, page.read_text(encoding="utf-8"))


def named_in(page: Path) -> set[str]:
    """Return the names of the generated sections of PAGE."""
    return {found["name"] for found in _SECTION.finditer(page.read_text(encoding="utf-8"))}


def job_tables(kinds: list[Kind]) -> dict[str, str]:
    """Return the table of each kind's config, and the one of the settings of any job."""
    tables = {f"{kind.name} settings": _table(kind.grouped()) for kind in kinds}
    return tables | {"job settings": _table(kinds[0].job, grouped=False)}


def _table(settings: Sequence[Setting], *, grouped: bool = True) -> str:
    lines = [
        "| setting | type | default | bounds | description |",
        "| --- | --- | --- | --- | --- |",
    ]
    group = ""
    for each in settings:
        if grouped and each.group != group:
            group = each.group
            lines.append(f"| **{group}** | | | | |")
        lines.append(_row(_cells(each)))
    return "\n".join(lines) + "\n"


def _row(cells: Iterator[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _cells(setting: Setting) -> Iterator[str]:
    yield f"`{setting.name}`"
    if setting.choices:
        listed = ", ".join(f"`{choice}`" for choice in setting.choices)
        yield f"list of {listed}" if setting.kind == "list" else listed
    else:
        yield {"list": "list of strings", "ref": "reference", "refs": "list of references"}.get(
            setting.kind, setting.kind
        )
    default = setting.default_shown()
    if setting.default_text or setting.required:
        yield setting.default_text or "required"
    else:
        yield f"`{default}`" if default else "not set"
    yield setting.bounds()
    yield setting.help + (f" Needs `{setting.needs}`." if setting.needs else "")


def server_table() -> dict[str, str]:
    """Return the table of the server's settings."""
    lines = [
        "| variable | type | default | bounds | description |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        if field.exclude:
            continue
        if name in SECTIONS:
            lines.append(f"| **{SECTIONS[name]}** | | | | |")
        lines.append(_row(_server_cells(name, field)))
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


_TYPES: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_TYPES[Path] = "path"


def _default(name: str, field: FieldInfo, unit: str) -> str:
    default = field.default
    if field.is_required():
        return "required"
    if name == "runtime_command":
        return "this Python, `-m dreadnode_runtime`"
    if default in ("", ()):
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


def _bound(bound: Ge | Gt) -> str:
    return f"above {bound.gt}" if isinstance(bound, Gt) else f"at least {bound.ge}"
