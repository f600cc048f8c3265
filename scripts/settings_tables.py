"""The tables of job settings in the documentation, written between markers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreadnode_api.training.job_settings import Kind, Setting

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
        lines.append(row(_cells(each)))
    return "\n".join(lines) + "\n"


def row(cells: Iterator[str]) -> str:
    """Return CELLS as a row of a table."""
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
