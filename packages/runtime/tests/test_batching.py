"""Which rows a step takes in."""

from dreadnode_runtime.data.batching import Batching
from hypothesis import given
from hypothesis import strategies as st


@given(rows=st.integers(1, 60), per_step=st.integers(1, 20), seed=st.integers())
def test_every_row_occurs_once_in_every_epoch(rows: int, per_step: int, seed: int) -> None:
    order = Batching(rows, per_step, seed)

    for epoch in range(2):
        first = epoch * order.steps_per_epoch
        steps = range(first, first + order.steps_per_epoch)
        seen = [row for step in steps for row in order.batch(step)]

        assert sorted(seen) == list(range(rows))


def test_the_same_seed_and_step_give_the_same_rows() -> None:
    once = [Batching(50, 8, seed=3).batch(step) for step in range(20)]
    again = Batching(50, 8, seed=3)

    assert [again.batch(step) for step in reversed(range(20))] == once[::-1]


def test_epochs_and_seeds_differ_in_row_order() -> None:
    order = Batching(50, 50, seed=3)

    assert order.batch(0) != order.batch(1)
    assert order.batch(0) != Batching(50, 50, seed=4).batch(0)


def test_rows_can_keep_their_order() -> None:
    order = Batching(5, 2, seed=0, shuffle=False)

    assert [order.batch(step) for step in range(4)] == [[0, 1], [2, 3], [4], [0, 1]]
