"""HTTP connections: uvicorn's, closed when a client stops reading its response."""

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
else:
    Base = AutoHTTPProtocol

SILENCE_SECONDS = 60.0
"""How long a client may stop reading."""


class Connection(Base):
    """One connection; a client that does not read would hold its rows of the batch for ever."""

    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Give the client time to continue reading."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(SILENCE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client is reading."""
        self._stop_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
