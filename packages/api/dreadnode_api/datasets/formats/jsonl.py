"""JSONL: one JSON object in UTF-8 on each line; blank lines are skipped. Lines count from 1."""

import json
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from dreadnode_api.datasets.formats import MAX_ROW_BYTES, Unreadable, json_reason, no_constant


def count(file: BinaryIO) -> int:
    """Check every line of FILE and return the number of rows.

    Raises:
        Unreadable: a line is not a JSON object in UTF-8, or is too long, or there is none.
    """
    number = sum(1 for _ in _lines(file))
    if not number:
        raise Unreadable("The dataset is empty; it needs one JSON object on each line")
    return number


def rows(file: BinaryIO) -> Iterator[str]:
    """Yield the rows of FILE, each the text of its line.

    Raises:
        Unreadable: a line is not a JSON object in UTF-8, or is too long.
    """
    for line in _lines(file):
        yield line.decode("utf-8").strip()


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 2):
        number += 1
        if len(line.rstrip(b"\n")) > MAX_ROW_BYTES:
            _refuse(number, f"is longer than {MAX_ROW_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            _check(number, line)
            yield line


def _check(number: int, line: bytes) -> None:
    try:
        row = json.loads(line.rstrip(b"\n").decode("utf-8"), parse_constant=no_constant)
    except UnicodeDecodeError:
        _refuse(number, "is not UTF-8")
    except json.JSONDecodeError as error:
        _refuse(number, f"is not JSON ({error.msg} at column {error.colno})")
    except RecursionError:
        _refuse(number, "is nested too deeply")
    except ValueError as error:
        _refuse(number, f"is not JSON ({json_reason(error)})")
    if not isinstance(row, dict):
        _refuse(number, "is not a JSON object")


def _refuse(number: int, what: str) -> NoReturn:
    raise Unreadable(
        f"Line {number} {what}; a dataset is JSONL, one JSON object encoded as UTF-8 on each line"
    )
