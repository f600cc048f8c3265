"""The request for a job as people write it: as a command, and as a job file."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dreadnode_api.training.job_settings import Setting, kind

FIRST = ("models", "model", "dataset_ref", "prompt_dataset_ref", "algorithm", "reward_recipe")
"""What a reader looks for first."""

CODE = {"reward_recipe": "reward.py", "environment": "environment.py"}
"""Settings that can be code, and the files of it that a command names by default."""


def as_command(request: Mapping[str, Any]) -> str:
    """Return the command that submits REQUEST, with one flag on each line."""
    environment = request["config"].get("environment") or {}
    if set(environment.get("params") or {}) - {"source", "filename"}:
        return "dn train submit job.toml"  # No flag sets the parameters of an environment.
    flags = [_words(flag) for flag in _flags(request)]
    return " \\\n  ".join([f"dn train {request['trainer_type']}", *flags])


def code_files(request: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that the command of REQUEST reads code from."""
    found = [request["config"].get(name) for name in CODE]
    return [_file(name, each) for name, each in zip(CODE, found, strict=True) if _source(each)]


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
        yield from _recipe(setting, value)
    elif setting.name == "models":
        # The arguments of `dn train eval`.
        yield from ([each] for each in value)
    elif isinstance(value, list):
        for each in value:
            yield [setting.flag, str(_short(each))]
    else:
        yield [setting.flag, str(_short(value))]


def _recipe(setting: Setting, recipe: Mapping[str, Any]) -> Iterator[list[str]]:
    params = dict(recipe.get("params") or {})
    name = recipe["name"]
    if _source(recipe):
        name = _file(setting.name, recipe)
        del params["source"]
        params.pop("filename", None)
    yield [setting.flag, name]
    if params:
        yield ["--reward-params", json.dumps(params, ensure_ascii=False)]


def _source(recipe: Mapping[str, Any] | None) -> bool:
    """Return whether a recipe is code."""
    return recipe is not None and "source" in (recipe.get("params") or {})


def _file(setting: str, recipe: Mapping[str, Any]) -> str:
    """Return the name of the file in which the command expects the code of a recipe."""
    name = str(recipe["params"].get("filename", ""))
    return name if name.endswith(".py") else CODE[setting]


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
