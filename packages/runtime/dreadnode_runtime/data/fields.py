"""The fields of an object while it is read: what no reader takes is counted as not read."""

from collections.abc import Mapping
from typing import Any


class Findings:
    """What reading found in one row besides its conversation."""

    __slots__ = ("notes", "unread")

    def __init__(self) -> None:
        # Dictionaries keep the order of what they hold, and hold each name once.
        self.unread: dict[str, None] = {}
        self.notes: dict[str, None] = {}


class Fields:
    """The fields of one object that are still to be read; a null field is absent.

    Arrow gives every object the fields of all others of its column, so an object whose own fields
    are all null is absent too.
    """

    __slots__ = ("_found", "_left", "_path")

    def __init__(self, values: Mapping[str, Any], found: Findings, path: str = "") -> None:
        self._left = {
            name: value
            for name, value in values.items()
            if value is not None and not (isinstance(value, dict) and value and _null(value))
        }
        self._found = found
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def __iter__(self) -> Any:
        return iter(self._left)

    def peek(self, name: str) -> Any:
        """Return the field NAME without taking it; None where it is absent."""
        return self._left.get(name)

    def take(self, *names: str) -> Any:
        """Return the first of NAMES that is present, which is then read; None where none is."""
        for name in names:
            if name in self._left:
                return self._left.pop(name)
        return None

    def close(self) -> None:
        """Count the fields that are left as not read, unless they hold nothing."""
        for name, value in self._left.items():
            if holds(value):
                self._found.unread[self._path + name] = None


def holds(value: Any) -> bool:
    """Return whether VALUE has content: empty text, lists and objects do not, 0 and false do."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(map(holds, value.values()))
    if isinstance(value, list):
        return any(map(holds, value))
    return value is not None


def _null(value: Mapping[str, Any]) -> bool:
    return all(
        each is None or (isinstance(each, dict) and bool(each) and _null(each))
        for each in value.values()
    )
