"""Runners, which start and end sandboxes.

A runner is a module in this folder with a function `create(settings)` that returns a `Runner` or
raises `SettingsError`. `DREADNODE_RUNNER` and `dn serve --runner` take its name, so adding a runner
means adding one file.
"""

from importlib import import_module
from pkgutil import iter_modules

from dreadnode_api.sandbox.runner import Runner
from dreadnode_api.settings import Settings, SettingsError


def names() -> list[str]:
    """Return the names of the available runners."""
    return sorted(module.name for module in iter_modules(__path__))


def create(settings: Settings) -> Runner:
    """Return the runner that the settings name.

    Raises:
        SettingsError: the name is unknown, or the runner lacks something that it needs.
    """
    if settings.runner not in names():
        known = ", ".join(f"`{name}`" for name in names())
        raise SettingsError(f"`DREADNODE_RUNNER` must be one of {known}, not `{settings.runner}`")
    runner: Runner = import_module(f"{__name__}.{settings.runner}").create(settings)
    return runner
