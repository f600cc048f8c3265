"""The flags of `dn train sft` and `dn train rl`, as Python modules."""

from __future__ import annotations

import re

from generated_code import HEADER, formatted, string
from job_settings import GROUPS, Kind, Setting

WITH_FLAGS_OF_THEIR_OWN = {
    "dataset_ref": "--dataset",
    "prompt_dataset_ref": "--prompt-dataset",
    "trajectory_dataset_refs": "--trajectory-dataset",
    "eval_dataset_ref": "--eval-dataset",
    "algorithm": "--algorithm",
    "reward_recipe": "--reward-recipe",
    "environment": "--environment",
}
"""Settings whose value a command makes from its flag, for instance by storing a file."""
TOKEN_COUNTS = ("max_sequence_length", "max_new_tokens")
"""Settings whose flag takes `32K` for 32,768 tokens, too."""
_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}
_IMPORTS = """\
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from dreadnode.cli import units
"""


def cli_flags(kind: Kind) -> str:
    """Return the module with the flags of `dn train` for a job of KIND."""
    flags = [each for each in kind.grouped() if each.name not in WITH_FLAGS_OF_THEIR_OWN]
    names = {each.name: WITH_FLAGS_OF_THEIR_OWN.get(each.name, each.flag) for each in kind.config}
    groups = [group for group in GROUPS if any(each.group == group for each in flags)]
    parts = [
        HEADER,
        f'"""The flags of `dn train {kind.name}` that go into the job\'s config as they are."""\n',
        _IMPORTS,
        *(f'{name.upper()} = Group("{name}", sort_key={10 + n})' for n, name in enumerate(groups)),
        '\n@Parameter(name="*")\n@dataclass(frozen=True, kw_only=True)',
        f"class {kind.name.title()}Flags:",
        f'    """Settings of `dn train {kind.name}`; the server fills in what is left out."""\n',
        *(_flag(each, names) for each in flags),
        f"\nNO_FLAGS = {kind.name.title()}Flags()",
        f"FLAG_NAMES = {names!r}",
        '"""The flag that sets each setting of the config."""',
    ]
    return formatted("\n".join(parts), f"packages/sdk/dreadnode/cli/train/{kind.name}_flags.py")


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
