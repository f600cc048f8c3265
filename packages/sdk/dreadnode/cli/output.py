"""Where words go: data to stdout, talk to stderr.

Text is for people and may change; `--json` is for programs. Colour alone never carries meaning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

Column = tuple[str, Callable[[Any], object]]
"""A heading, and what stands under it for one item."""


class Output:
    """Shows what a command has found.

    Args:
        as_json: Whether data is shown as JSON.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def rows(self, items: Sequence[BaseModel], columns: Sequence[Column], *, none: str) -> None:
        """Show ITEMS as a table, or as a JSON array of all their fields.

        Args:
            items: What was found.
            columns: The table's columns.
            none: What to say, on stderr, when nothing was found.
        """
        if self.as_json:
            self.json([item.model_dump(mode="json") for item in items])
        elif items:
            self.text(
                *table([[show(cell(item)) for _, cell in columns] for item in items], columns)
            )
        else:
            say(none)

    def record(self, item: BaseModel, fields: Sequence[Column]) -> None:
        """Show ITEM, one field per line, without those that hold nothing; or as a JSON object."""
        if self.as_json:
            self.json(item.model_dump(mode="json"))
        else:
            self.fields({name: cell(item) for name, cell in fields})

    def fields(self, values: Mapping[str, object]) -> None:
        """Show VALUES, one per line, without those that are None; or as a JSON object."""
        if self.as_json:
            self.json(values)
            return
        lines = {name: text for name, value in values.items() if (text := show(value))}
        width = max(map(len, lines), default=0)
        self.text(*(f"{name:<{width}}  {text}" for name, text in lines.items()))

    def json(self, data: object) -> None:
        """Show DATA as JSON."""
        self.text(json.dumps(data, indent=2, ensure_ascii=False))

    def text(self, *lines: str) -> None:
        """Show lines of data."""
        for line in lines:
            sys.stdout.write(f"{line}\n")


def say(*lines: str) -> None:
    """Print a message to stderr."""
    for line in lines:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def hint(text: str) -> None:
    """Name the next command, with the person's own values."""
    say(f"hint: {text}")


def count(number: int, thing: str) -> str:
    """Return NUMBER and THING, in the plural where it belongs."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def show(value: object) -> str:
    """Return VALUE as it stands in a cell: on one line, and nothing for None."""
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    # A name or an error may hold anything; control characters would move the cursor.
    return "".join(char if char.isprintable() else " " for char in text)


def table(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> Iterable[str]:
    """Return the lines of a table: headings in capitals, columns two blanks apart."""
    rows = [[name.upper() for name, _ in columns], *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    for row in rows:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).isdigit()
