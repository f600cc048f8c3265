"""Waiting for an engine: as long as it takes, while it is there."""

import asyncio
from typing import Any

import pytest
from dreadnode_runtime.backend.availability import while_available
from dreadnode_runtime.errors import TryAgain


class There:
    """Answers as told, the last answer for ever; remembers how often it was asked."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self) -> bool:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def until(event: asyncio.Event) -> str:
    await event.wait()
    return "done"


async def test_slow_work_is_awaited_while_the_engine_is_available(
    eventually: Any,
) -> None:
    there, finished = There(True), asyncio.Event()
    waiting = asyncio.create_task(while_available(until(finished), there, 0, check_interval=0.001))
    await eventually(lambda: there.asked > 5)
    finished.set()

    assert await waiting == "done"


async def test_an_engine_that_stays_unreachable_ends_the_wait() -> None:
    with pytest.raises(TryAgain, match="The engine was unreachable for 0 s"):
        await while_available(until(asyncio.Event()), There(True, False), 0, check_interval=0.001)

    assert len(asyncio.all_tasks()) <= 2


async def test_an_engine_that_comes_back_resets_the_outage(eventually: Any) -> None:
    there, finished = There(False, False, True), asyncio.Event()
    waiting = asyncio.create_task(while_available(until(finished), there, 60, check_interval=0.001))
    await eventually(lambda: there.asked > 5)
    finished.set()

    assert await waiting == "done"


async def test_errors_of_the_work_are_not_hidden() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await while_available(fails(), There(True), 0)
