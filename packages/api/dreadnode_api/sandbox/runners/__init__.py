"""What starts a sandbox and ends it.

A runner is one module here with a function `create(settings)` that returns a `Runner`, or raises
`SettingsError` with what is missing. Its name is what `DREADNODE_RUNNER` and `dn serve --runner`
take, so a further runner is one further file.
"""

from importlib import import_module
from pkgutil import iter_modules

from dreadnode_api.sandbox.runner import Runner
from dreadnode_api.settings import Settings, SettingsError


def names() -> list[str]:
    """Return the names of the runners that there are."""
    return sorted(module.name for module in iter_modules(__path__))


def create(settings: Settings) -> Runner:
    """Return the runner that the settings name.

    Raises:
        SettingsError: there is none of this name, or something that it needs is missing.
    """
    if settings.runner not in names():
        known = ", ".join(f"`{name}`" for name in names())
        raise SettingsError(f"`DREADNODE_RUNNER` must be one of {known}, not `{settings.runner}`")
    runner: Runner = import_module(f"{__name__}.{settings.runner}").create(settings)
    return runner
