"""Waiting for something that is far away, for as long as it is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dreadnode_runtime.errors import TryAgain

LOOK_EVERY = 15.0
"""Seconds between two looks at whether it is there."""
T = TypeVar("T")


async def while_there(
    work: Coroutine[Any, Any, T],
    is_there: Callable[[], Awaitable[bool]],
    patience: float,
    look_every: float = LOOK_EVERY,
) -> T:
    """Await WORK, unless IS_THERE says no for PATIENCE seconds on end.

    Work that takes long is no reason to end it: large models wait long for their turn.

    Raises:
        TryAgain: It was away for too long; WORK is cancelled.
    """
    task = asyncio.ensure_future(work)
    gone_at: float | None = None
    try:
        while not (await asyncio.wait({task}, timeout=look_every))[0]:
            if await is_there():
                gone_at = None
                continue
            gone_at = time.monotonic() if gone_at is None else gone_at
            if time.monotonic() - gone_at >= patience:
                raise TryAgain(f"The engine was away for {patience:.0f} s")
        return await task
    finally:
        task.cancel()
