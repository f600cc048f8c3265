"""The formats of a dataset: each reader yields the rows of a file as JSON objects of one line.

A reader keeps few rows in memory. It never changes a value silently: a value without an exact JSON
form is refused, with its row and column.
"""

import json
import re
from typing import Any, NoReturn

MAX_ROW_BYTES = 8 * 1024 * 1024


class Unreadable(Exception):
    """A file that is refused; the text is one sentence for the client."""


def to_json(row: dict[str, Any]) -> str:
    """Return ROW as JSON.

    Raises:
        ValueError: a number in it is infinite or NaN.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def json_reason(error: Exception) -> str:
    """Return in a few words why a text is not valid JSON."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def no_constant(name: str) -> NoReturn:
    """Refuse a constant that Python's JSON reader accepts and JSON does not have."""
    raise ValueError(f"JSON has no {name}")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return PAIRS as an object.

    Raises:
        ValueError: two pairs have the same name, so a value would be lost.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the name `{name}` twice")
        found[name] = value
    return found


def check_columns(names: list[str]) -> None:
    """Return if the names of the columns can be the keys of a row.

    Raises:
        Unreadable: a name is empty, is used twice, or has whitespace around it.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise Unreadable(f"Column {number} has no name; give every column a name")
        if name != name.strip():
            raise Unreadable(
                f"The name of column {number} is `{name}`, with whitespace around it; remove it"
            )
        if re.search(r"[\x00-\x1f]", name):
            raise Unreadable(
                f"The name of column {number} contains a control character; rename the column"
            )
        if name in numbers:
            raise Unreadable(
                f"Columns {numbers[name]} and {number} are both named `{name}`; rename one"
            )
        numbers[name] = number
