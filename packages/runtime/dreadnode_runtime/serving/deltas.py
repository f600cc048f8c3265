"""The parts of a completion that can be shown while it grows.

A part is never taken back, so text waits while it may still change: half of a character, the
beginning of a stop string, or white space that the chat format may remove.
"""

from collections.abc import Sequence

from dreadnode_runtime.data.completions import end_tokens, read_completion
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.serving.messages import message_of

UNKNOWN = "\ufffd"
"""What a tokenizer decodes the bytes of half a character to."""


class _Pace:
    """Reads a completion again after every token at first, and after one in 64 of it later.

    Reading takes time in proportion to the length; this keeps the sum from growing as its square.
    """

    def __init__(self) -> None:
        self._next = 1

    def is_due(self, length: int) -> bool:
        if length < self._next:
            return False
        self._next = length + max(1, length // 64)
        return True


class MessageDeltas:
    """New reasoning and content of one message.

    Args:
        rendering: The chat format.
        prompt: Tokens of the prompt.
        stop: The request's stop strings.
    """

    def __init__(self, rendering: Rendering, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._rendering = rendering
        self._prompt = prompt
        self._stop = stop
        self._pace = _Pace()
        self._emitted = {"reasoning": "", "content": ""}

    def part(self, tokens: Sequence[int]) -> dict[str, str]:
        """Return what is new in TOKENS, all that were sampled so far."""
        if not self._pace.is_due(len(tokens)):
            return {}
        reply = read_completion(self._rendering, self._prompt, tokens, stop=self._stop)
        message = message_of(reply)
        if message["tool_calls"]:
            return {}
        found = {
            "reasoning": (message["reasoning"] or "").strip(),
            "content": _settled(message["content"], self._stop),
        }
        return {name: new for name, text in found.items() if (new := self._new(name, text))}

    def rest(self, message: dict[str, str | None]) -> dict[str, str]:
        """Return what the whole MESSAGE has beyond the parts."""
        texts = {name: message[name] or "" for name in self._emitted}
        return {name: new for name, text in texts.items() if (new := self._new(name, text))}

    def _new(self, name: str, text: str) -> str:
        emitted = self._emitted[name]
        if not text.startswith(emitted):
            return ""
        self._emitted[name] = text
        return text[len(emitted) :]


class TextDeltas:
    """New text of one completion without a chat format.

    Args:
        rendering: Has the tokenizer.
        stop: The request's stop strings.
    """

    def __init__(self, rendering: Rendering, stop: Sequence[str]) -> None:
        self._rendering = rendering
        self._stop = stop
        self._pace = _Pace()
        self._emitted = 0

    def part(self, tokens: Sequence[int]) -> dict[str, str]:
        """Return what is new in TOKENS, all that were sampled so far."""
        if not self._pace.is_due(len(tokens)):
            return {}
        return self._new(_settled(self.whole(tokens), self._stop))

    def rest(self, choice: dict[str, str]) -> dict[str, str]:
        """Return what the whole CHOICE has beyond the parts."""
        return self._new(choice["text"])

    def whole(self, tokens: Sequence[int]) -> str:
        """Return the text of TOKENS up to what ended it."""
        ends = end_tokens(self._rendering)
        kept = list(tokens)
        while kept and kept[-1] in ends:
            kept.pop()
        text = self._rendering.decode(kept)
        found = [position for each in self._stop if (position := text.find(each)) >= 0]
        return text[: min(found)] if found else text

    def _new(self, text: str) -> dict[str, str]:
        new = text[self._emitted :]
        self._emitted = max(self._emitted, len(text))
        return {"content": new} if new else {}


def _settled(text: str, stop: Sequence[str]) -> str:
    """Return the beginning of TEXT that more tokens cannot change."""
    text = text.rstrip(UNKNOWN).rstrip()
    for each in stop:
        for size in range(min(len(each) - 1, len(text)), 0, -1):
            if text.endswith(each[:size]):
                text = text[:-size]
                break
    return text
