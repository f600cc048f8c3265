"""Output: data goes to stdout and messages go to stderr.

Text is for people and may change; `--json` is for programs. Colour never carries meaning alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

Column = tuple[str, Callable[[Any], object]]
"""A heading, and the value of one item under it."""

_BIDIRECTIONAL = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {
    code: f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *_BIDIRECTIONAL)
    if chr(code) not in "\n\t"
}
_GAP = 2
_NARROWEST = 6


class Output:
    """Prints the data of a command.

    Args:
        as_json: Whether data is printed as JSON.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def rows(
        self,
        items: Sequence[BaseModel],
        columns: Sequence[Column],
        *,
        none: str,
        shrink: Collection[str] = (),
    ) -> None:
        """Print ITEMS as a table, or as a JSON array of all their fields.

        Args:
            items: The items.
            columns: The columns of the table.
            none: The message on stderr when there are no items.
            shrink: The columns that are cut so that the table fits the terminal. Columns without
                a value are then left out.
        """
        if self.as_json:
            self.json([item.model_dump(mode="json") for item in items])
        elif items:
            self.text(*self.lines(items, columns, shrink=shrink))
        else:
            say(none)

    def lines(
        self,
        items: Sequence[BaseModel],
        columns: Sequence[Column],
        *,
        shrink: Collection[str] = (),
    ) -> Iterable[str]:
        """Return the lines of a table of ITEMS."""
        cells, names = _cells(items, columns)
        return fitted_table(cells, names, shrink) if shrink else table(cells, names)

    def record(self, item: BaseModel, fields: Sequence[Column]) -> None:
        """Print ITEM, one field on each line, without empty fields; or as a JSON object."""
        if self.as_json:
            self.json(item.model_dump(mode="json"))
        else:
            self.fields({name: cell(item) for name, cell in fields})

    def fields(self, values: Mapping[str, object]) -> None:
        """Print VALUES, one on each line, without empty ones; or as a JSON object.

        A list has one line for each of its items.
        """
        if self.as_json:
            self.json(values)
            return
        width = max((len(name) for name, value in values.items() if _lines(value)), default=0)
        for name, value in values.items():
            for number, line in enumerate(_lines(value)):
                self.text(f"{'' if number else name:<{width}}  {line}")

    def json(self, data: object) -> None:
        """Print DATA as JSON."""
        self.text(json.dumps(data, indent=2, ensure_ascii=False))

    def text(self, *lines: str) -> None:
        """Print lines of data."""
        for line in lines:
            sys.stdout.write(f"{visible(line)}\n")

    def part(self, text: str) -> None:
        """Print a part of a line at once."""
        sys.stdout.write(visible(text))
        sys.stdout.flush()


def visible(text: str) -> str:
    """Return TEXT with control characters escaped, as JSON escapes them.

    They would move the cursor, or reorder the text around them, so that a person reads something
    else than it says. Names, logs, rows and completions can contain them.
    """
    return text.translate(_VISIBLE)


def say(*lines: str) -> None:
    """Print messages on stderr, where they do not mix with data."""
    for line in lines:
        sys.stderr.write(f"{visible(line)}\n")
    sys.stderr.flush()


def say_part(text: str, start: str) -> None:
    """Print a part of a message on stderr; START begins each further line."""
    sys.stderr.write(visible(text).replace("\n", f"\n{start}"))
    sys.stderr.flush()


def hint(text: str) -> None:
    """Suggest the next command, with the user's own values."""
    say(f"hint: {text}")


def count(number: int, thing: str) -> str:
    """Return NUMBER and THING, in the plural where needed."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def now() -> datetime:
    """Return the current time; tests replace it."""
    return datetime.now(UTC)


def seconds_since(moment: datetime) -> float:
    """Return the seconds from MOMENT to now; 0 if it is still to come."""
    return max((now() - moment).total_seconds(), 0)


def when(moment: datetime | None) -> str:
    """Return MOMENT in this machine's time zone, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def elapsed(seconds: float) -> str:
    """Return a duration in its largest unit, such as `5m`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _in_table(value: object) -> str:
    """Return VALUE as a cell of a table, where a time is shown by its distance from now."""
    if not isinstance(value, datetime):
        return show(value)
    seconds = (now() - value).total_seconds()
    if abs(seconds) < 60:
        return "now"
    return f"{elapsed(seconds)} ago" if seconds > 0 else f"in {elapsed(-seconds)}"


def show(value: object) -> str:
    """Return VALUE as the text of one cell, on one line; None is empty."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return when(value)
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return visible(" ".join(text.splitlines()).replace("\t", " "))


def _lines(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for each in values if (text := show(each))]


def table(cells: Sequence[Sequence[str]], names: Sequence[str]) -> Iterable[str]:
    """Return the lines of a table, with headings in capitals."""
    rows = [[name.upper() for name in names], *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(names))]
    for row in rows:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        yield (" " * _GAP).join(padded).rstrip()


def fitted_table(
    cells: Sequence[Sequence[str]], names: Sequence[str], shrink: Collection[str]
) -> Iterable[str]:
    """Return a table as wide as the terminal: without empty columns, and with SHRINK ones cut."""
    kept = [i for i in range(len(names)) if any(row[i] for row in cells)]
    names = [names[i] for i in kept]
    cells = [[row[i] for i in kept] for row in cells]
    widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
    flexible = [i for i, name in enumerate(names) if name in shrink]
    limit = line_width()
    while sum(widths) + _GAP * (len(widths) - 1) > limit and flexible:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return table([[_cut(*each) for each in zip(row, widths, strict=True)] for row in cells], names)


def widest_table(
    items: Sequence[object],
    columns: Sequence[Column],
    narrow: Sequence[Column],
    shrink: Collection[str],
) -> tuple[list[str], bool]:
    """Return a table of ITEMS that fits the terminal, and whether it has all COLUMNS.

    In a narrow terminal it has the columns NARROW, of which those in SHRINK are cut.
    """
    lines = list(table(*_cells(items, columns)))
    if max(map(len, lines)) <= line_width():
        return lines, True
    return list(fitted_table(*_cells(items, narrow), shrink)), False


def _cells(items: Sequence[object], columns: Sequence[Column]) -> tuple[list[list[str]], list[str]]:
    """Return the cells of a table, and the names of its columns."""
    cells = [[_in_table(cell(item)) for _, cell in columns] for item in items]
    return cells, [name for name, _ in columns]


def line_width() -> int:
    """Return how many columns a line may have; in a pipe, where programs read, any number."""
    from shutil import get_terminal_size

    return get_terminal_size((80 if sys.stdout.isatty() else 10_000, 24)).columns


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).isdigit()
