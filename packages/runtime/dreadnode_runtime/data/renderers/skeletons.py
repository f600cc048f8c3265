"""Writes a conversation from the skeleton of another one with the same roles, tools and calls.

What a message says is opaque to chat formats: they strip blanks around it and look for their own
tags in it, and otherwise copy it. So text without tags is replaced by a mark between the same
blanks, what the format writes around the marks is kept, and the next conversation of the same kind
only fills it in. Chat templates take most of the time of rendering otherwise.
"""

import re
from typing import Any, Protocol

from dreadnode_runtime.data.renderers.chat import Chat
from dreadnode_runtime.data.renderers.tokens import COVER, COVER_END

KEPT = 2_000
"""How many skeletons are kept."""
_MARK = re.compile(f"{COVER}c([0-9]+){COVER_END}")


class Writer(Protocol):
    """Writes conversations as text."""

    def write(self, chat: Chat, *, prompt: bool) -> str:
        """Return CHAT as text; with PROMPT, up to where the assistant's next message begins."""
        ...


class SkeletonWriter:
    """Writes as WRITER does, and asks it once for each kind of conversation."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._skeletons: dict[str, list[str]] = {}

    def write(self, chat: Chat, *, prompt: bool) -> str:
        """Return CHAT as text; with PROMPT, up to where the assistant's next message begins."""
        texts: list[str] = []
        messages = [_marked(message, texts) for message in chat.messages]
        if not texts:
            return self._writer.write(chat, prompt=prompt)
        key = repr((prompt, messages, chat.tools))
        pieces = self._skeletons.get(key)
        if pieces is None:
            pieces = _MARK.split(self._writer.write(Chat(messages, chat.tools), prompt=prompt))
            if len(self._skeletons) >= KEPT:
                self._skeletons.clear()
            self._skeletons[key] = pieces
        filled = [
            piece if index % 2 == 0 else texts[int(piece)] for index, piece in enumerate(pieces)
        ]
        return "".join(filled)


def _marked(message: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Return MESSAGE with marks for what it says and thinks, which go to the end of TEXTS.

    Results stay as they are: some formats write them as JSON strings.
    """
    if message["role"] == "tool":
        return message
    marked = dict(message)
    for name in ("content", "reasoning_content"):
        text = message.get(name)
        if isinstance(text, str) and is_opaque(text):
            before, said, after = without_blanks(text)
            marked[name] = f"{before}{COVER}c{len(texts)}{COVER_END}{after}"
            texts.append(said)
    return marked


def is_opaque(text: str) -> bool:
    """Return whether a format copies TEXT, apart from blanks around it, and does not read it."""
    return "<" not in text and COVER not in text and bool(text) and not text.isspace()


def without_blanks(text: str) -> tuple[str, str, str]:
    """Return the blanks before TEXT, the rest of it, and the blanks behind it."""
    said = text.strip()
    if len(said) == len(text):
        return "", text, ""
    start = text.index(said)
    return text[:start], said, text[start + len(said) :]
