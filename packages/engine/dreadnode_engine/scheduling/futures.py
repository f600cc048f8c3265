"""Who waits for which request, and how they hear that it is done."""

import asyncio
from collections.abc import Callable, Sequence


class Futures:
    """The requests that clients wait for. Make it on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[str, set[asyncio.Event]] = {}

    def notify(self, *request_ids: str, publish: Callable[[], None] | None = None) -> None:
        """Wake the clients of requests after PUBLISH has run; from any thread."""
        # All at once, which costs as much as one.
        self._loop.call_soon_threadsafe(self._notify, request_ids, publish)

    def _notify(self, request_ids: Sequence[str], publish: Callable[[], None] | None) -> None:
        if publish is not None:
            publish()
        for request_id in request_ids:
            for event in self._waiters.get(request_id, ()):
                event.set()

    def has_waiter(self, request_id: str) -> bool:
        """Whether a client waits for REQUEST_ID now."""
        return request_id in self._waiters

    def add(self, request_id: str, event: asyncio.Event | None = None) -> asyncio.Event:
        """Return an event that is set when REQUEST_ID is done; `remove` it afterwards.

        It is EVENT, if that is given: one that waits for several things.
        """
        event = event or asyncio.Event()
        self._waiters.setdefault(request_id, set()).add(event)
        return event

    def remove(self, request_id: str, event: asyncio.Event) -> None:
        """Stop waiting for REQUEST_ID."""
        events = self._waiters[request_id]
        events.discard(event)
        if not events:
            del self._waiters[request_id]
