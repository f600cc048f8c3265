"""The layout of help pages: plain text in two columns, the same in a terminal, a pipe and docs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_MAX_WIDTH = 100
_MAX_LABEL = 32


class Page:
    """Formats one page of help: usage, description, example, and the groups of flags."""

    def __init__(self) -> None:
        self._usage = ""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the usage line."""
        self._usage = _plain(console, usage) if usage else ""
        if usage:
            _print(console, f"Usage: {self._usage.removeprefix('Usage: ')}\n")

    def render_description(self, console: Console, options: ConsoleOptions, text: Any) -> None:
        """Print the description of the command."""
        if text:
            paragraphs = _plain(console, text).split("\n\n")
            width = min(console.width, _MAX_WIDTH)
            _print(console, "\n\n".join(textwrap.fill(each, width) for each in paragraphs) + "\n")
        from dreadnode.cli.examples import example_of

        if example := example_of(self._usage):
            _print(console, f"Example:\n  {example}\n")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one group of commands or flags."""
        lines = [(_label(entry), _text(console, entry)) for entry in panel.entries]
        if not lines:
            return
        column = min(max(len(label) for label, _ in lines), _MAX_LABEL) + 2
        width = max(min(console.width, _MAX_WIDTH) - column - 2, 20)
        _print(console, f"{_plain(console, panel.title)}:")
        for label, text in lines:
            first, *rest = textwrap.wrap(text, width) or [""]
            if len(label) + 2 > column:
                _print(console, f"  {label}")
                label = ""
            _print(console, f"  {label:<{column}}{first}".rstrip())
            for line in rest:
                _print(console, f"{'':<{column + 2}}{line}")
        _print(console, "")


def _label(entry: HelpEntry) -> str:
    return ", ".join(entry.display_labels_with_metavar)


def _text(console: Console, entry: HelpEntry) -> str:
    parts = [_plain(console, entry.description)] if entry.description else []
    if entry.choices:
        parts.append(f"One of {', '.join(entry.choices)}.")
    if entry.default is not None:
        parts.append(f"[default: {entry.default}]")
    if entry.required:
        parts.append("[required]")
    return " ".join(parts)


def _plain(console: Console, text: Any) -> str:
    if isinstance(text, str):
        return text.strip()
    with console.capture() as capture:
        console.print(text, end="", no_wrap=True, soft_wrap=True)
    return capture.get().strip()


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
