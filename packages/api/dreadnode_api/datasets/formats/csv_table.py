"""CSV: commas, doubled quotes, a header; every value is a string.

A few columns are parsed as JSON; see JSON_COLUMNS.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from dreadnode_api.datasets.formats import (
    MAX_ROW_BYTES,
    Unreadable,
    check_columns,
    json_reason,
    no_constant,
    to_json,
    unique,
)

JSON_COLUMNS: dict[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(("messages", "conversations", "steps", "tools"), ("a list", (list,))),
    "reward": ("a number", (int, float)),
    "success": ("true or false", (bool,)),
}
"""Columns that are parsed as JSON, and their types; an empty cell adds nothing to its row."""


def rows(file: BinaryIO) -> Iterator[str]:
    """Yield the rows of FILE, each an object with a key for each column.

    Raises:
        Unreadable: it is not CSV in UTF-8 with a header, or a row does not match the header.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_lines(file), strict=True)
    number, header = 0, None
    try:
        for values in reader:
            if not values:
                continue
            if header is None:
                header = _header(values)
                continue
            number += 1
            if len(values) != len(header):
                raise Unreadable(
                    f"Row {number}, which ends in line {reader.line_num}, has "
                    f"{_counted(len(values))}, but the header has {len(header)} columns"
                )
            yield to_json(_row(number, header, values))
    except csv.Error as error:
        line = reader.line_num
        raise Unreadable(f"Line {line} is not CSV ({error}); quote values that need it") from None


def _lines(file: BinaryIO) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise Unreadable(f"Line {number} is longer than {MAX_ROW_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable(f"Line {number} is not UTF-8; save the file as UTF-8") from None


def _header(names: list[str]) -> list[str]:
    check_columns(names)
    if len(names) == 1 and any(other in names[0] for other in ";\t|"):
        raise Unreadable(f"The header has one column, `{names[0]}`; separate columns with commas")
    return names


def _row(number: int, header: list[str], values: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in zip(header, values, strict=True):
        if name not in JSON_COLUMNS:
            row[name] = value
        elif value.strip():
            needed, kinds = JSON_COLUMNS[name]
            try:
                row[name] = _read(value, kinds)
            except (ValueError, RecursionError) as error:
                raise Unreadable(
                    f"Row {number}, column `{name}`: write {needed} as JSON ({json_reason(error)})"
                ) from None
    return row


def _read(text: str, kinds: tuple[type, ...]) -> Any:
    # Most programs in Python write a boolean to a cell like this.
    text = {"True": "true", "False": "false"}.get(text.strip(), text)
    found = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    if not isinstance(found, kinds):
        raise ValueError("it is something else")  # noqa: TRY004 - part of the same refusal
    return found


def _counted(values: int) -> str:
    return "1 value" if values == 1 else f"{values} values"
