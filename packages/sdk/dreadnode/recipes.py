"""Rewards and environments of RL jobs: a recipe by name, or code in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode.errors import InputError
from dreadnode.lazy_types import rl


def reward_recipe(reward: str | Path, params: Mapping[str, Any]) -> rl.Recipe:
    """Return the recipe named REWARD, or the one of a .py file with a function `reward`.

    Raises:
        InputError: The file cannot be read.
    """
    if isinstance(reward, Path) or reward.endswith(".py"):
        return python_recipe(Path(reward), params)
    return rl.Recipe(name=reward, params=dict(params))


def python_recipe(file: Path, params: Mapping[str, Any] | None = None) -> rl.Recipe:
    """Return the recipe that runs the code in FILE.

    Raises:
        InputError: The file cannot be read.
    """
    named = {"filename": file.name, **(params or {}), "source": read_text(file)}
    return rl.Recipe(name="python_v1", params=named)


def scoring(
    reward: str | Path | Mapping[str, Any] | rl.Recipe | None,
    params: Mapping[str, Any] | None,
    environment: Path | Mapping[str, Any] | rl.Recipe | None,
) -> dict[str, Any]:
    """Return the settings of a job that REWARD with PARAMS and ENVIRONMENT give.

    Raises:
        InputError: A file cannot be read.
    """
    settings: dict[str, Any] = {}
    if isinstance(reward, (str, Path)):
        settings["reward_recipe"] = reward_recipe(reward, params or {})
    elif reward is not None:
        settings["reward_recipe"] = reward
    if environment is not None:
        settings["environment"] = (
            python_recipe(environment) if isinstance(environment, Path) else environment
        )
    return settings


def read_text(file: Path) -> str:
    """Return the text of FILE.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"`{file}` cannot be read: {reason}") from None
