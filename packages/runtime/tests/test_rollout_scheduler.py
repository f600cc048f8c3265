"""Which rollouts are started and learnt from: never too old, and none for nothing."""

import asyncio
import random
from typing import Any

import pytest
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.rl.rollout_scheduler import RolloutScheduler
from hypothesis import given, settings
from hypothesis import strategies as st


class Rollouts:
    """Groups that end when the test says so; a group is its own index."""

    def __init__(self) -> None:
        self.open: dict[int, asyncio.Future[int]] = {}
        self.started: list[tuple[int, str]] = []

    async def start(self, index: int, sampler: str) -> int:
        self.started.append((index, sampler))
        self.open[index] = asyncio.get_running_loop().create_future()
        return await self.open[index]

    async def end(self, *indices: int) -> None:
        await asyncio.sleep(0)
        for index in indices:
            self.open.pop(index).set_result(index)
        await asyncio.sleep(0)


def feed(rollouts: Rollouts, **changes: Any) -> RolloutScheduler[str, int]:
    plan = {"per_step": 2, "lead": 0, "bound": 0, "in_order": True, "first": 0, "total": 100}
    return RolloutScheduler(rollouts.start, **{**plan, **changes})


async def taken(feed: RolloutScheduler[str, int], step: int) -> list[tuple[int, int]] | None:
    """Return what a step takes at once, or nothing if it has to wait."""
    try:
        async with asyncio.timeout(0.02):
            return await feed.take(step, Stop())
    except TimeoutError:
        return None


async def test_synchronous_training_waits_for_every_group_of_its_step() -> None:
    rollouts = Rollouts()
    sync = feed(rollouts)

    sync.fill("w0", 0)
    await rollouts.end(1)
    early = await taken(sync, 0)
    await rollouts.end(0)

    assert [index for index, _ in rollouts.started] == [0, 1]
    assert early is None
    assert await taken(sync, 0) == [(0, 0), (0, 1)]


async def test_one_step_off_samples_the_next_step_during_training() -> None:
    rollouts = Rollouts()
    ahead = feed(rollouts, lead=1, bound=1)

    ahead.fill("w0", 0)
    await rollouts.end(0, 1, 2, 3)
    first = await taken(ahead, 0)
    ahead.fill("w1", 1)
    second = await taken(ahead, 1)

    assert (first, second) == ([(0, 0), (0, 1)], [(1, 2), (1, 3)])
    await rollouts.end(4)
    assert rollouts.started[4:] == [(4, "w1"), (5, "w1")]


async def test_fully_async_training_does_not_wait_for_a_slow_group_within_the_staleness_limit() -> (
    None
):
    rollouts = Rollouts()
    free = feed(rollouts, lead=2, bound=2, in_order=False)

    free.fill("w0", 0)
    await rollouts.end(1, 2, 3, 4)

    assert await taken(free, 0) == [(0, 1), (0, 2)]


async def test_fully_async_training_waits_for_a_group_that_would_become_too_old() -> None:
    rollouts = Rollouts()
    free = feed(rollouts, lead=1, bound=1, in_order=False)
    free.fill("w0", 0)
    await rollouts.end(1, 2)
    await taken(free, 0)
    free.fill("w1", 1)
    await rollouts.end(4, 5)

    early = await taken(free, 1)
    await rollouts.end(0, 3)

    assert early is None
    assert await taken(free, 1) == [(1, 0), (1, 3)]


async def test_an_error_in_a_rollout_ends_the_step() -> None:
    async def fails(index: int, _: str) -> int:
        raise LookupError(f"group {index}")

    broken: RolloutScheduler[str, int] = RolloutScheduler(
        fails, per_step=1, lead=3, bound=3, in_order=False, first=0, total=9
    )
    broken.fill("w0", 0)

    with pytest.raises(LookupError, match="group"):
        await broken.take(0, Stop())


async def test_a_stop_is_noticed_during_rollouts() -> None:
    rollouts, stop = Rollouts(), Stop()
    sync = feed(rollouts)
    sync.fill("w0", 0)

    waiting = asyncio.create_task(sync.take(0, stop))
    await asyncio.sleep(0)
    stop.cancelled = True

    assert await waiting == []
    sync.close()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    per_step=st.integers(1, 5),
    bound=st.integers(1, 5),
    interval=st.integers(1, 5),
    in_order=st.booleans(),
)
def test_rollouts_of_any_duration_are_neither_too_old_nor_lost(
    seed: int, per_step: int, bound: int, interval: int, in_order: bool
) -> None:
    interval = min(interval, bound)
    chance = random.Random(seed)

    async def work(index: int, _: int) -> int:
        for _ in range(chance.choice([0, 0, 1, 2, 20])):
            await asyncio.sleep(0)
        return index

    async def run() -> tuple[list[int], list[int]]:
        steps, version = 12, -1
        lead = bound - (interval - 1)
        free: RolloutScheduler[int, int] = RolloutScheduler(
            work,
            per_step=per_step,
            lead=lead,
            bound=bound,
            in_order=in_order,
            first=0,
            total=steps * per_step,
        )
        ages, learnt = [], []
        for step in range(steps):
            if version < 0 or step - version >= interval:
                version = step
            free.fill(version, version)
            assert free.pending <= (lead + 1) * per_step
            aged = await free.take(step, Stop())
            assert len(aged) == per_step
            ages += [age for age, _ in aged]
            learnt += [index for _, index in aged]
        return ages, learnt

    ages, learnt = asyncio.run(run())

    assert max(ages) <= bound
    assert sorted(learnt) == list(range(12 * per_step))
