"""What a pushed file may be: each reader yields a file's rows as JSON objects in one line of text.

A reader holds no more than a few rows at a time and changes no value in silence: what JSON has no
exact form for is refused, by row and column.
"""

import json
import re
from typing import Any, NoReturn

MAX_ROW_BYTES = 8 * 1024 * 1024


class Unreadable(Exception):
    """A file whose rows cannot be taken; the text is one sentence for the person who pushed it."""


def written(row: dict[str, Any]) -> str:
    """Return ROW as JSON.

    Raises:
        ValueError: a number in it is infinite or none.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def json_reason(error: Exception) -> str:
    """Return in a few words why a text is not the JSON that is taken here."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def no_constant(name: str) -> NoReturn:
    """Refuse what Python's reader takes for a number and JSON does not have."""
    raise ValueError(f"there is no {name} in JSON")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return PAIRS as an object, of which no key may be lost to another of the same name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names `{twice}` twice")
    return found


def check_columns(names: list[str]) -> None:
    """Return if every column has a name of its own.

    Raises:
        Unreadable: one has none, shares one, or has blanks around it.
    """
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise Unreadable(f"Column {number} has no name; give every column one")
        if name != name.strip():
            raise Unreadable(
                f"Column {number} is named `{name}`, with blanks around the name; take them away"
            )
        if re.search(r"[\x00-\x1f]", name):
            raise Unreadable(f"The name of column {number} holds a control character; rename it")
        if name in names[: number - 1]:
            raise Unreadable(
                f"Columns {names.index(name) + 1} and {number} are both named `{name}`; rename one"
            )
