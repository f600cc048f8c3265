"""The rows of a dataset's file."""

import json
from collections.abc import Iterator
from pathlib import Path

from dreadnode_runtime.data.normal_form import Row


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the objects of the JSONL file at PATH, each with its row number, from 1.

    Blank lines are not rows and have no number. A byte order mark is not part of the first row.

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
            if not isinstance(value, dict):
                raise ValueError(f"Line {number} is not a JSON object")  # noqa: TRY004
            yield row, value
