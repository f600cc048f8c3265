"""The SDK's types for the request that creates a job, as Python modules."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from dreadnode_api.training.job_settings import Kind, Setting
from generated_code import HEADER, formatted

_SCALARS = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}
_IMPORTS = """\
from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dreadnode.wire import CapabilityRef, DatasetRef, Request
"""
_RECIPE_IMPORT = "from dreadnode.training.rl_request import Recipe\n"
_RECIPE = '''\
class Recipe(Request):
    """A reward or an environment: its name and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
'''


def sdk_types(kind: Kind) -> str:
    """Return the module with the request and the config of KIND."""
    name = kind.name.title()
    title = f'"""The request for {kind.name.upper()} jobs: its settings, with bounds and help."""\n'
    parts = [HEADER, title, _IMPORTS]
    if any(each.kind == "recipe" for each in kind.config):
        # Rewards and environments are the same for all kinds of jobs.
        parts.append(_RECIPE if kind.name == "rl" else _RECIPE_IMPORT)
    parts += _model(f"{name}Config", kind.config_doc, kind.config, in_config=True)
    fixed = [
        f"config: {name}Config",
        'backend: Literal["tinker"] = "tinker"',
        f'trainer_type: Literal["{kind.name}"] = "{kind.name}"',
    ]
    parts += _model(f"{name}Request", kind.doc, kind.job, fixed)
    return formatted("\n".join(parts), f"packages/sdk/dreadnode/training/{kind.name}_request.py")


def _model(
    name: str,
    doc: str,
    settings: list[Setting],
    fixed: Sequence[str] = (),
    *,
    in_config: bool = False,
) -> Iterator[str]:
    yield f"class {name}(Request):"
    yield textwrap.indent(f'"""{doc}\n"""' if "\n" in doc else f'"""{doc}"""', "    ") + "\n"
    for setting in settings:
        if setting.required:
            default = ""
        elif in_config or setting.default is None:
            default = " = None"
        else:
            default = f" = {setting.default!r}".replace("[]", "()")
        optional = " | None" if default == " = None" else ""
        yield f"    {setting.name}: {_type(setting)}{optional}{default}"
        yield textwrap.indent(_doc(setting), "    ") + "\n"
    yield from (f"    {line}" for line in fixed)
    yield ""


def _type(setting: Setting) -> str:
    if setting.kind in ("ref", "refs"):
        ref = "CapabilityRef" if setting.name == "capability_ref" else "DatasetRef"
        return ref if setting.kind == "ref" else _constrained(f"tuple[{ref}, ...]", setting)
    if setting.kind == "recipe":
        return "Recipe"
    choices = f"Literal[{', '.join(map(repr, setting.choices))}]" if setting.choices else ""
    if setting.kind == "list":
        item = choices or _annotated("str", setting.item_constraints)
        return _constrained(f"tuple[{item}, ...]", setting)
    return choices or _constrained(_SCALARS[setting.kind], setting)


def _constrained(kind: str, setting: Setting) -> str:
    return _annotated(kind, setting.constraints)


def _annotated(kind: str, constraints: dict[str, float]) -> str:
    bounds = ", ".join(f"{name}={value!r}" for name, value in sorted(constraints.items()))
    return f"Annotated[{kind}, Field({bounds})]" if bounds else kind


def _doc(setting: Setting) -> str:
    default = setting.default_shown()
    text = f"{setting.help} Default: {default}." if default else setting.help
    if setting.needs:
        text += f" Needs `{setting.needs}`."
    return "\n".join(textwrap.wrap(f'"""{text}"""', 96))
