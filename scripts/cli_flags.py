"""The flags of `dn train sft`, `rl` and `eval`, as Python modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dreadnode_api.training.job_settings import GROUPS, Kind, Setting
from generated_code import HEADER, formatted, string

MADE_BY_COMMANDS = (
    *("models", "dataset_ref", "prompt_dataset_ref", "trajectory_dataset_refs", "eval_dataset_ref"),
    *("algorithm", "reward_recipe", "environment"),
)
"""Settings whose value a command makes from its flag, for instance by storing a file."""
TOKEN_COUNTS = ("max_sequence_length", "max_new_tokens", "max_tokens")
"""Settings whose flag takes `32K` for 32,768 tokens, too."""
_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}
# Annotations are values here: cyclopts evaluates a text with the names of the inheriting module.
_IMPORTS = """\
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from dreadnode.cli import units
"""


SHARED = "train_flags"
"""The module with the flags that every kind of training has."""
ALONE = ("eval",)
"""Kinds of jobs that train nothing and have no flags of training."""


def cli_flags(kinds: Sequence[Kind]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each module: shared flags, and those of each kind of job."""
    written = {kind.name: _flags(kind) for kind in kinds}
    names = {kind.name: _names(kind) for kind in kinds}
    first, *others = (kind.name for kind in kinds if kind.name not in ALONE)
    shared = [flag for flag in written[first] if all(flag in written[each] for each in others)]
    shared_names = {
        setting: flag
        for setting, flag in names[first].items()
        if all(names[each].get(setting) == flag for each in others)
    }
    yield (
        SHARED,
        _module(
            "The flags that `dn train sft` and `dn train rl` share, for settings of the config.",
            [
                *(f'{n.upper()} = Group("{n}", sort_key={10 + i})' for i, n in enumerate(GROUPS)),
                _class("TrainFlags", "", "Settings of every kind of training", shared),
                f"FLAG_NAMES = {shared_names!r}",
            ],
        ),
    )
    for kind in kinds:
        alone = kind.name in ALONE
        own = [flag for flag in written[kind.name] if alone or flag not in shared]
        own_names = {s: f for s, f in names[kind.name].items() if alone or s not in shared_names}
        title = f"{kind.name.title()}Flags"
        yield (
            f"{kind.name}_flags",
            _module(
                f"The flags of `dn train {kind.name}` alone, for settings of the config.",
                [
                    f"from dreadnode.cli.train import {SHARED}",
                    f"from dreadnode.cli.train.{SHARED} import {', '.join(map(str.upper, GROUPS))}",
                    _class(
                        title,
                        "" if alone else f"({SHARED}.TrainFlags)",
                        f"Settings of `dn train {kind.name}`",
                        own,
                    ),
                    f"NO_FLAGS = {title}()",
                    f"FLAG_NAMES = {'' if alone else f'{SHARED}.FLAG_NAMES | '}{own_names!r}",
                ],
            ),
        )


def _module(doc: str, parts: Sequence[str]) -> str:
    """Return the text of a module; unused imports are dropped."""
    names = '"""The flag that sets each setting of the config."""'
    text = [HEADER, f'"""{doc}"""\n', _IMPORTS, *parts, names]
    return formatted("\n".join(text), "packages/sdk/dreadnode/cli/train/flags.py")


def _class(name: str, base: str, what: str, flags: Sequence[str]) -> str:
    docstring = f'    """{what}; the server fills in what is left out."""\n'
    head = f'\n@Parameter(name="*")\n@dataclass(frozen=True, kw_only=True)\nclass {name}{base}:'
    return "\n".join([head, docstring, *flags])


def _names(kind: Kind) -> dict[str, str]:
    return {each.name: each.flag for each in kind.config}


def _flags(kind: Kind) -> list[str]:
    names = _names(kind)
    settings = (each for each in kind.grouped() if each.name not in MADE_BY_COMMANDS)
    return [_flag(each, names) for each in settings]


def _flag(setting: Setting, flags: dict[str, str]) -> str:
    kind = _TYPES.get(setting.kind, "")
    if setting.choices:
        kind = f"Literal[{', '.join(map(repr, setting.choices))}]"
    if setting.kind == "list":
        kind = f"tuple[{kind or 'str'}, ...]"
    if not kind:
        raise SystemExit(
            f"error: `{setting.name}` is a {setting.kind}: add a flag to "
            "packages/sdk/dreadnode/cli/train/, and its name to scripts/cli_flags.py"
        )
    parts = [f"group={setting.group.upper()}", f"help={string(_help(setting, flags))}"]
    if default := setting.default_shown():
        parts.append(f"show_default={string(_with_flags(default, flags))}")
    if setting.name in TOKEN_COUNTS:
        parts.append("converter=units.token_count")
    if setting.default is True or (setting.kind in ("list", "boolean") and setting.default is None):
        parts.append(f'negative="--no-{setting.flag[2:]}"')
    return f"    {setting.name}: Annotated[{kind} | None, Parameter({', '.join(parts)})] = None\n"


def _help(setting: Setting, flags: dict[str, str]) -> str:
    text = setting.help
    if setting.kind == "list":
        text += " May be repeated."
    if setting.needs:
        text += f" Needs `{setting.needs}`."
    return _with_flags(text, flags)


def _with_flags(text: str, flags: dict[str, str]) -> str:
    """Return TEXT with the flags in place of the settings that it names."""
    return re.sub(r"`(\w+)`", lambda found: f"`{flags.get(found[1], found[1])}`", text)
