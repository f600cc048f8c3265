"""Spaces out the tinker SDK's polls while a gateway answers with server errors.

SDK 0.38 repeats a poll for a result immediately after a 5xx response, forever. A gateway responds
within a millisecond while the engine behind it restarts, so each pending result would send
thousands of requests a second. The SDK has no setting for this.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from tinker.lib import api_future_impl

MAX_WAIT = 15.0
"""Longest wait between two polls, in seconds."""
FORGET_AFTER = 60.0
"""Seconds without an error after which the waits start short again."""

Handler = Callable[..., Awaitable[None]]


def space_out_polls() -> None:
    """Make every poll that got a 5xx response wait before the next; later calls do nothing."""
    future: Any = api_future_impl._APIFuture
    if not hasattr(future._handle_transport_error, "__wrapped__"):
        future._handle_transport_error = _spaced(future._handle_transport_error)


def _spaced(handle: Handler) -> Handler:
    """Return HANDLE, which decides whether a failed poll is repeated, with a wait behind it."""

    @wraps(handle)
    async def handle_and_wait(future: Any, error: Any, *args: Any) -> None:
        await handle(future, error, *args)
        if error.status_code < 500:
            return
        now = time.monotonic()
        wait, seen_at = getattr(future, "_dreadnode_wait", (0.25, now))
        wait = 0.25 if now - seen_at > FORGET_AFTER else wait
        # Jitter, so that the pending results of a run do not all poll at the same moment.
        await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311
        future._dreadnode_wait = (min(2 * wait, MAX_WAIT), time.monotonic())

    return handle_and_wait
