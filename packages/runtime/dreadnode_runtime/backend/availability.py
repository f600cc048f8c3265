"""Waiting for a remote result while the remote side is reachable."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dreadnode_runtime.errors import TryAgain

CHECK_INTERVAL = 15.0
"""Seconds between two availability checks."""
T = TypeVar("T")


async def while_available(
    work: Coroutine[Any, Any, T],
    is_available: Callable[[], Awaitable[bool]],
    max_outage: float,
    check_interval: float = CHECK_INTERVAL,
) -> T:
    """Await WORK without a time limit, unless IS_AVAILABLE is false for MAX_OUTAGE seconds.

    A time limit on the work itself would be wrong: a step of a large model can wait in a queue
    for hours.

    Raises:
        TryAgain: The outage lasted too long; WORK is cancelled.
    """
    task = asyncio.ensure_future(work)
    outage_start: float | None = None
    try:
        while not (await asyncio.wait({task}, timeout=check_interval))[0]:
            if await is_available():
                outage_start = None
                continue
            outage_start = time.monotonic() if outage_start is None else outage_start
            if time.monotonic() - outage_start >= max_outage:
                raise TryAgain(f"The engine was unreachable for {max_outage:.0f} s")
        return await task
    finally:
        task.cancel()
