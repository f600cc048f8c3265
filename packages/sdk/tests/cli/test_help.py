"""The help of each command has an example, and each example is a valid command line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest
from cyclopts import App
from dreadnode.cli.examples import EXAMPLES
from dreadnode.cli.main import app

Dn = Callable[[str], str]
OF_THE_ENGINE = "engine"
"""`dn engine` passes all of its arguments on, `--help` too."""


def commands(group: App, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the words of each command below GROUP."""
    for name, command in group.resolved_commands().items():
        if name.startswith("-") or name == OF_THE_ENGINE:
            continue
        yield " ".join((*path, name))
        yield from commands(command, (*path, name))


def test_every_command_has_an_example_and_every_example_a_command() -> None:
    assert set(commands(app)) | {""} == set(EXAMPLES)


@pytest.mark.parametrize("words", EXAMPLES)
def test_an_example_is_a_valid_command_line_and_its_help_shows_it(words: str, dn: Dn) -> None:
    arguments = shlex.split(EXAMPLES[words])[1:]

    command, _, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    shown = dn(f"{words} --help")

    assert arguments[: len(words.split())] == words.split()
    assert callable(command)
    assert f"Example:\n  {EXAMPLES[words]}\n" in shown
