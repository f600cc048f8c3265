"""The rows of a dataset's file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from dreadnode_runtime.data.normal_form import Row, Unusable

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON begins to write half of a character; both halves together are one."""


def read_rows(path: Path) -> Iterator[tuple[int, Row | Unusable]]:
    """Yield the objects of the JSONL file at PATH, each with its row number, from 1.

    In place of an object that no kind of job can use comes the reason. Blank lines are not rows and
    have no number. A byte order mark is not part of the first row.

    Raises:
        ValueError: A line is not a JSON object; the message names it.
    """
    row = 0
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row += 1
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"Line {number} is not JSON") from error
            except RecursionError:
                yield row, Unusable("it is nested too deeply")
                continue
            if not isinstance(value, dict):
                raise ValueError(f"Line {number} is not a JSON object")  # noqa: TRY004
            yield row, encodable(value) if _HALF.search(line) else value


def usable(row: Row | Unusable) -> Row:
    """Return ROW, or raise the reason why no kind of job can use it."""
    if isinstance(row, Unusable):
        raise row
    return row


def encodable(row: Row) -> Row | Unusable:
    """Return ROW if all text in it can be written as UTF-8, and so be tokenized."""
    try:
        must_be_unicode(json.dumps(row, ensure_ascii=False))
    except Unusable as unusable:
        return unusable
    except RecursionError:
        return Unusable("it is nested too deeply")
    return row


def must_be_unicode(text: str) -> None:
    """Return if TEXT can be written as UTF-8; JSON within a row's text can hide what cannot.

    Raises:
        Unusable: It has half of a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable("text with half a character in it, a lone surrogate") from None
