"""The conversation partners that are kept warm: a bounded number, each for a bounded time."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from dreadnode_api.chat.session import Broken, Ended, Partner, Talk
from dreadnode_api.errors import GatewayTimeout, TooManyRequests
from dreadnode_api.runtime_processes.environment import KEY_SECONDS
from dreadnode_api.settings import Settings

RETRY_SECONDS = 5


class Talks:
    """One process for each checkpoint that is talked with, until nobody does any more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._talks: dict[str, tuple[Talk, float]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def ask(self, partner: Partner, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the runtime answers for PARTNER.

        Raises:
            TooManyRequests: As many others are talked with as may be at once.
            GatewayTimeout: There was no answer in time.
            Broken: The process failed.
        """
        try:
            async with asyncio.timeout(self._settings.chat_timeout):
                while True:
                    # A process that another's question ended is no answer to this one.
                    with contextlib.suppress(Ended):
                        return await self._ask(partner, question)
        except TimeoutError:
            raise GatewayTimeout(
                f"The model did not answer within {self._settings.chat_timeout:.0f} s; ask for "
                "fewer tokens, or try again when the engine has less to do"
            ) from None

    async def _ask(self, partner: Partner, question: Mapping[str, Any]) -> dict[str, Any]:
        where = str(partner.opening["checkpoint"])
        talk = self._of(where, partner)
        talk.users += 1
        try:
            return await talk.ask(question)
        finally:
            talk.users -= 1
            self._rest(where, talk)

    async def close(self) -> None:
        """End all of them."""
        for where in list(self._talks):
            self._end(where)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _of(self, where: str, partner: Partner) -> Talk:
        """Return the one that talks for WHERE, and make one, and room for it, if need be."""
        talk, since = self._talks.get(where, (None, 0.0))
        if talk is not None and (talk.dead or (_too_old(since) and not talk.users)):
            self._end(where)
            talk = None
        if talk is None:
            if len(self._talks) >= self._settings.chats_at_once:
                self._make_room()
            talk = Talk(self._settings, partner)
            self._talks[where] = talk, time.monotonic()
        if (timer := self._timers.pop(where, None)) is not None:
            timer.cancel()
        return talk

    def _make_room(self) -> None:
        # Timers are set when an answer is given, so the first one belongs to the longest silence.
        idle = next((w for w in self._timers if not self._talks[w][0].users), None)
        if idle is None:
            raise TooManyRequests(
                f"This server talks with {self._settings.chats_at_once} checkpoints at once, and "
                "each of them is busy; try again in a few seconds",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self._end(idle)

    def _rest(self, where: str, talk: Talk) -> None:
        """Let TALK end when it is dead, or when it was silent for long enough."""
        if talk.users or self._talks.get(where, (None, 0.0))[0] is not talk:
            return
        if talk.dead:
            self._end(where)
            return
        loop = asyncio.get_running_loop()
        if (timer := self._timers.pop(where, None)) is not None:
            timer.cancel()
        self._timers[where] = loop.call_later(self._settings.chat_idle_seconds, self._end, where)

    def _end(self, where: str) -> None:
        if (timer := self._timers.pop(where, None)) is not None:
            timer.cancel()
        talk, _ = self._talks.pop(where)
        task = asyncio.create_task(_closed(talk))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _too_old(since: float) -> bool:
    """Whether a process's key may end within one more answer."""
    return time.monotonic() - since > KEY_SECONDS / 2


async def _closed(talk: Talk) -> None:
    with contextlib.suppress(Broken):
        await talk.close()
