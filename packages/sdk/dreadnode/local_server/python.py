"""How the SDK starts another Python program of this project."""

from __future__ import annotations

import sys


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs MODULE with this interpreter.

    `-P` keeps the current folder out of the import path, where a file named like one of our modules
    would run in its place.
    """
    return (sys.executable, "-P", "-m", module)


ISOLATED = {"PYTHONSAFEPATH": "1"}
"""Environment variables that do the same for the processes which that program starts."""
