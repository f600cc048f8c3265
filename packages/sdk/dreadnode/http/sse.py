"""Server-sent events out of lines of text, without any network.

The form is the WHATWG's: fields `id`, `event` and `data` on lines of their own, an empty line after
each event, and lines that begin with a colon for nothing but keeping the connection alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Message:
    """One event as it was sent."""

    id: str
    event: str
    data: str


@dataclass
class Reader:
    """Collects lines until they make an event."""

    _id: str = ""
    _event: str = ""
    _data: list[str] = field(default_factory=list)

    def read(self, line: str) -> Message | None:
        """Take the next line; return an event if it ends one.

        What a broken connection leaves unfinished is never returned.
        """
        if not line:
            message = Message(self._id, self._event or "message", "\n".join(self._data))
            empty = not self._data
            self._event, self._data = "", []
            return None if empty else message
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        return None
