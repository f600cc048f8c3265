"""The request for a job as people write it: as a command, and as a job file."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dreadnode_api.training.job_settings import Setting, kind

FIRST = ("models", "model", "dataset_ref", "prompt_dataset_ref", "algorithm", "reward_recipe")
"""What a reader looks for first."""


def as_command(request: Mapping[str, Any]) -> str:
    """Return the command that submits REQUEST, with one flag on each line."""
    flags = [_words(flag) for flag in _flags(request)]
    return " \\\n  ".join([f"dn train {request['trainer_type']}", *flags])


def as_toml(request: Mapping[str, Any]) -> str:
    """Return the job file that `dn train submit` takes for REQUEST."""
    job = {name: value for name, value in request.items() if name != "config"}
    lines = [f"{name} = {_toml(_short(value))}" for name, value in job.items()]
    config = [f"{name} = {_toml(_short(value))}" for name, value in request["config"].items()]
    return "\n".join([*lines, "", "[config]", *config]) + "\n"


def _flags(request: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield each flag with its values."""
    given = {**request, **request["config"]}
    described = kind(request["trainer_type"])
    settings = {each.name: each for each in (*described.job, *described.config)}
    for name in sorted(settings.keys() & given, key=_place):
        yield from _flag(settings[name], given[name])


def _place(name: str) -> tuple[int, str]:
    return FIRST.index(name) if name in FIRST else len(FIRST), name


def _flag(setting: Setting, value: Any) -> Iterator[list[str]]:
    if isinstance(value, bool):
        yield [setting.flag if value else f"--no-{setting.flag[2:]}"]
    elif setting.kind == "recipe":
        yield [setting.flag, value["name"]]
        if value.get("params"):
            yield ["--reward-params", json.dumps(value["params"], ensure_ascii=False)]
    elif setting.name == "models":
        # The arguments of `dn train eval`.
        yield from ([each] for each in value)
    elif isinstance(value, list):
        for each in value:
            yield [setting.flag, str(_short(each))]
    else:
        yield [setting.flag, str(_short(value))]


def _words(flag: list[str]) -> str:
    name, *values = flag
    # A value that begins with a dash would be read as a flag.
    if values and values[0].startswith("-"):
        return shlex.quote(f"{name}={values[0]}")
    return shlex.join(flag)


def _short(value: Any) -> Any:
    """Return references as `name@version`, and a recipe without parameters as its name."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, dict) and set(value) == {"name", "version"}:
        return f"{value['name']}@{value['version']}"
    if isinstance(value, dict) and "name" in value and not value.get("params"):
        return value["name"]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML writes strings, numbers and booleans as JSON does, except for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
