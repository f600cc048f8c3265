"""Counting and checking JSONL rows while they stream by."""

import json
from typing import Any

from dreadnode_api.errors import Invalid

MAX_LINE_BYTES = 8 * 1024 * 1024


class RowCounter:
    """Is shown the pieces of a JSONL file in order, and counts its rows.

    A row is a line that holds one JSON object; blank lines are passed over. Lines count from 1.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._line = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Look at the next piece.

        Raises:
            Invalid: a line is no JSON object in UTF-8, or is longer than is taken.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._look(line)
        if len(self._rest) > MAX_LINE_BYTES:
            raise self._refusal(f"is longer than {MAX_LINE_BYTES:,} bytes", self._line + 1)

    def finish(self) -> int:
        """Look at what follows the last line break, and return the number of rows.

        Raises:
            Invalid: that part is no JSON object, or there was not one row.
        """
        if self._rest:
            self._look(self._rest)
            self._rest = b""
        if self.rows == 0:
            raise Invalid("The dataset is empty; it needs one JSON object on each line")
        return self.rows

    def _look(self, line: bytes) -> None:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            return
        try:
            row: Any = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        except UnicodeDecodeError:
            raise self._refusal("is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise self._refusal(f"is not JSON ({error.msg} at column {error.colno})") from None
        except RecursionError:
            raise self._refusal("is nested too deeply") from None
        except ValueError as error:
            raise self._refusal(f"is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise self._refusal("is not a JSON object")
        self.rows += 1

    def _refusal(self, what: str, line: int | None = None) -> Invalid:
        return Invalid(
            f"Line {line or self._line} {what}; a dataset is JSONL, "
            "one JSON object encoded as UTF-8 on each line"
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"there is no {name} in JSON")
