"""Chat sessions that stay warm: a bounded number, each for a bounded time."""

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from dreadnode_api.chat.session import ChatSession, ChatTarget
from dreadnode_api.errors import GatewayTimeout
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.settings import Settings

WAIT_SECONDS = 30.0


class ChatSessionPool:
    """One session for each checkpoint in use, which ends when it is idle for long enough."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = FairQueue(settings.chats_at_once, "chats", wait_seconds=WAIT_SECONDS)
        self._sessions: dict[str, ChatSession] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # A session answers one request at a time.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, target: ChatTarget, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the runtime's response for TARGET.

        Raises:
            TooManyRequests: no slot became free in time.
            GatewayTimeout: there is no response in time.
            ChildFailed: the process failed.
        """
        checkpoint = target.checkpoint
        lock = self._locks.setdefault(checkpoint, asyncio.Lock())
        try:
            async with (
                asyncio.timeout(self._settings.chat_timeout),
                lock,
                self._queue.slot(target.org_id),
            ):
                session = self._session(target)
                try:
                    return await session.ask(request)
                finally:
                    self._rest(checkpoint, session)
        except TimeoutError:
            raise GatewayTimeout(
                f"The model did not respond within {self._settings.chat_timeout:.0f} s; request "
                "fewer tokens, or try again when the engine is less busy"
            ) from None

    async def close(self) -> None:
        """End all sessions."""
        for checkpoint in list(self._sessions):
            self._end(checkpoint)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _session(self, target: ChatTarget) -> ChatSession:
        """Return the session of TARGET; if there is none, start one and end another if need be."""
        checkpoint = target.checkpoint
        if (timer := self._timers.pop(checkpoint, None)) is not None:
            timer.cancel()
        session = self._sessions.get(checkpoint)
        if session is not None and not session.is_usable:
            self._end(checkpoint)
            session = None
        if session is None:
            if len(self._sessions) >= self._settings.chats_at_once:
                self._end_longest_idle()
            session = self._sessions[checkpoint] = ChatSession(self._settings, target)
        return session

    def _end_longest_idle(self) -> None:
        # The queue has a slot for every session that works, so at least one is idle.
        self._end(min(self._timers, key=lambda each: self._sessions[each].used_at))

    def _rest(self, checkpoint: str, session: ChatSession) -> None:
        """Keep the session warm for a while, or end it if it is dead."""
        if session.is_dead:
            self._end(checkpoint)
            return
        loop = asyncio.get_running_loop()
        self._timers[checkpoint] = loop.call_later(
            self._settings.chat_idle_seconds, self._end, checkpoint
        )

    def _end(self, checkpoint: str) -> None:
        if (timer := self._timers.pop(checkpoint, None)) is not None:
            timer.cancel()
        closing = asyncio.create_task(self._sessions.pop(checkpoint).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
