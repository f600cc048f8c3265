"""The overview of rendered rows: lengths and equal rows."""

import numpy as np
from dreadnode_runtime.data.overview import BINS, Overview
from hypothesis import given
from hypothesis import strategies as st


@given(lengths=st.lists(st.integers(1, 300_000), min_size=1, max_size=40))
def test_a_histogram_counts_every_row_in_few_bins_of_round_width(lengths: list[int]) -> None:
    overview = Overview()
    for row, length in enumerate(lengths, 1):
        overview._add(row, length, row.to_bytes(8, "little"))

    found = overview.report()["lengths"]

    bins = found["bins"]
    assert len(bins) <= BINS
    for each in bins:
        inside = sum(each["least"] <= length <= each["most"] for length in lengths)
        assert each["rows"] == inside
    assert sum(each["rows"] for each in bins) == len(lengths)
    assert (found["min"], found["max"]) == (min(lengths), max(lengths))
    assert found["median"] in lengths
    assert found["p95"] in lengths


@given(rows=st.lists(st.integers(0, 5), max_size=30))
def test_every_repeated_row_is_counted_with_the_first_of_its_kind(rows: list[int]) -> None:
    overview = Overview()
    overview.start("")
    for number, content in enumerate(rows, 1):
        overview.add_prompt(number, [content, 7])

    found = overview.report()["duplicates"]

    repeats = [at for at, content in enumerate(rows) if content in rows[:at]]
    assert found["count"] == len(repeats)
    assert found["rows"] == [
        {"row": at + 1, "of": {"row": rows.index(rows[at]) + 1}} for at in repeats[:5]
    ]


def test_rows_of_several_datasets_are_named_with_their_dataset() -> None:
    overview = Overview()
    for dataset in ("training dataset", "trajectory dataset 1"):
        overview.start(dataset)
        overview.add_prompt(1, np.arange(5).tolist())

    assert overview.report()["duplicates"]["rows"] == [
        {
            "row": 1,
            "dataset": "trajectory dataset 1",
            "of": {"row": 1, "dataset": "training dataset"},
        }
    ]
