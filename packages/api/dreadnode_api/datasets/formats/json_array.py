"""JSON: one array of objects, or objects one after another, as JSON Lines are often named `.json`.

A row keeps its original text, so no number or escape changes.
"""

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

from dreadnode_api.datasets.formats import (
    MAX_ROW_BYTES,
    Unreadable,
    json_reason,
    no_constant,
    unique,
)

CHUNK = 1 << 20
_BLANK = " \t\r\n"
# A line break inside valid JSON can only be whitespace between tokens.
_ONE_LINE = {ord("\n"): " ", ord("\r"): " "}
_DECODER = json.JSONDecoder(object_pairs_hook=unique, parse_constant=no_constant)


def rows(file: BinaryIO) -> Iterator[str]:
    """Yield the objects in FILE.

    Raises:
        Unreadable: it is neither an array of objects nor JSON Lines, in UTF-8.
    """
    text = _Text(file)
    first = text.next()
    if first == "{":
        yield from _one_after_another(text)
        return
    if first != "[":
        raise Unreadable(
            "The file begins with neither an array nor an object; "
            "a JSON dataset is one array of objects, or one object on each line"
        )
    number = 0
    if text.next() == "]":
        text.take()
    else:
        while True:
            number += 1
            yield text.object(number)
            if (mark := text.take()) == "]":
                break
            if mark != ",":
                raise Unreadable(f"After row {number}, a comma or the end of the array is missing")
    if text.next():
        raise Unreadable("The file continues after the array; a dataset is one array of objects")


def _one_after_another(text: "_Text") -> Iterator[str]:
    number = 0
    while text.next():
        number += 1
        yield text.object(number)


class _Text:
    """The text of a file from the current position, with a part of it in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._array = False

    def next(self) -> str:
        """Return the next character that is not whitespace, or an empty string at the end.

        The position stays before it, except for the array's opening bracket.
        """
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                break
            if not self._more():
                return ""
        found = self._text[self._at]
        if found == "[" and not self._array:
            self._array = True
            self._at += 1
        return found

    def take(self) -> str:
        """Return the next character that is not whitespace, and move past it."""
        found = self.next()
        self._at += len(found)
        return found

    def object(self, number: int) -> str:
        """Return the next object as one line of text."""
        if self.next() != "{":
            raise Unreadable(f"Row {number} is not an object; a row of a dataset is one object")
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # The rest of the object may not have been read yet.
                if len(self._text) - self._at <= MAX_ROW_BYTES and self._more():
                    continue
                if not self._ended:
                    raise Unreadable(
                        f"Row {number} is not JSON, or longer than {MAX_ROW_BYTES:,} bytes"
                    ) from error
                raise Unreadable(f"Row {number} is not JSON ({json_reason(error)})") from error
            found = self._text[self._at : end]
            self._at = end
            return found.translate(_ONE_LINE)

    def _more(self) -> bool:
        """Read at least as much as is in memory, and return whether there was more."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        data = self._file.read(max(CHUNK, len(rest)))
        self._ended = not data
        try:
            self._text = rest + self._decoder.decode(data, final=not data)
        except UnicodeDecodeError:
            raise Unreadable("The file is not UTF-8; save it as UTF-8") from None
        self._at = 0
        return not self._ended or len(self._text) > len(rest)
