"""The line that says what a job's check found in its data."""

from __future__ import annotations

from typing import Any

import pytest
from dreadnode.cli.views import data, dropped
from dreadnode.training.jobs import Preflight


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({}, "9 of 9 rows"),
        ({"unread": {"context": 9}}, "9 of 9 rows, not read: context in 9 rows"),
        (
            {"usable": 8, "dropped": {"no answer": 1}, "first_dropped": {"no answer": [3]}},
            "8 of 9 rows",
        ),
        (
            {"notes": {"tools are called and none is described": 2}, "tokens": 1000},
            "9 of 9 rows, tools are called and none is described in 2 rows, 1,000 tokens",
        ),
        (
            {"evaluation": {"rows": 4, "usable": 3, "dropped": {"no prompt": 1}}},
            "9 of 9 rows, evaluation data: 3 of 4 rows, dropped 1 row: no prompt",
        ),
        ({"evaluation": {"rows": 4, "usable": 4}}, "9 of 9 rows"),
    ],
)
def test_dropped_and_truncated_rows_are_reported(found: dict[str, Any], line: str) -> None:
    assert data(Preflight.model_validate({"rows": 9, "usable": 9, **found})) == line


def test_dropped_rows_have_their_own_line() -> None:
    found = {"rows": 9, "usable": 8, "dropped": {"no answer": 1}}

    lines = dropped(Preflight.model_validate({**found, "first_dropped": {"no answer": [3]}}))

    assert lines == ["1 row: no answer (row 3)"]
