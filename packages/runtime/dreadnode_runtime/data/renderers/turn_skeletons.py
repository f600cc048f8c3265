"""Turns of plain conversations, filled in from those of another one with the same roles.

A `SkeletonWriter` keeps what a format writes around a conversation's text, for one text at a time.
Here that is kept for all trained turns of a conversation at once, and already split at its control
tokens. It serves conversations without tools, reasoning and images whose text holds no character
that a control token begins with: most rows of most datasets.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dreadnode_runtime.data.normal_form import Conversation, Message, Role, Unusable
from dreadnode_runtime.data.renderers.skeletons import is_opaque, without_blanks
from dreadnode_runtime.data.renderers.tokens import Encoder, Piece
from dreadnode_runtime.data.renderers.turns import Turn

KEPT = 2_000
"""How many skeletons are kept."""
MARK, MARK_END = "\ufdd2", "\ufdd3"
"""Around the number of a text. Unicode reserves these two code points for such use."""
_MARK = re.compile(f"{MARK}([0-9]+){MARK_END}")

Write = Callable[[Conversation, Sequence[int]], list[Turn]]


@dataclass(frozen=True, slots=True)
class SplitTurn:
    """A trained message, split at control tokens: the prompt before it, and what it says."""

    prompt: list[Piece]
    completion: list[Piece]


@dataclass(frozen=True, slots=True)
class _Blank:
    """Pieces of which some are to be filled in: at which index, with which filling."""

    pieces: list[Piece]
    at: list[tuple[int, int]]

    def filled(self, fillings: Sequence[str]) -> list[Piece]:
        pieces = self.pieces.copy()
        for index, filling in self.at:
            pieces[index] = fillings[filling]
        return pieces


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """The turns of one kind of conversation.

    Attributes:
        fillings: Pieces with text of the row: what the format writes, then the number of a text
            that follows, and so on.
        turns: Prompt and completion of each turn.
    """

    fillings: list[list[str | int]]
    turns: list[tuple[_Blank, _Blank]]

    def filled(self, texts: Sequence[str]) -> list[SplitTurn]:
        fillings = [
            "".join([texts[part] if isinstance(part, int) else part for part in parts])
            for parts in self.fillings
        ]
        return [
            SplitTurn(prompt.filled(fillings), completion.filled(fillings))
            for prompt, completion in self.turns
        ]


class TurnSkeletons:
    """Returns the turns that WRITE writes, and asks it once for each kind of conversation.

    Args:
        write: Returns the turns of a conversation, given the indices of the trained messages.
        encoder: Splits what it writes.
    """

    def __init__(self, write: Write, encoder: Encoder) -> None:
        self._write = write
        self._encoder = encoder
        self._skeletons: dict[tuple[object, ...], _Skeleton | None] = {}

    def turns(self, conversation: Conversation, trained: Sequence[int]) -> list[SplitTurn] | None:
        """Return the turns of the TRAINED messages; None if CONVERSATION is not a plain one."""
        if conversation.tools:
            return None
        texts: list[str] = []
        kind: list[tuple[Role, str]] = []
        for message in conversation.messages:
            marked = self._marked(message, texts)
            if marked is None:
                return None
            kind.append((message["role"], marked))
        key = (*trained, *kind)
        if key not in self._skeletons:
            if len(self._skeletons) >= KEPT:
                self._skeletons.clear()
            self._skeletons[key] = self._skeleton(kind, trained)
        skeleton = self._skeletons[key]
        if skeleton is None or not _is_unicode(texts):
            return None
        return skeleton.filled(texts)

    def _marked(self, message: Message, texts: list[str]) -> str | None:
        """Return a mark in place of what MESSAGE says, which goes to the end of TEXTS.

        A system prompt that a format may read stays as it is: it is that of many rows. None is
        returned for any other message that is not plain.
        """
        text = message["content"]
        if message["role"] == "tool" or "tool_calls" in message or not isinstance(text, str):
            return None
        if MARK in text or not text:
            return None
        if is_opaque(text) and self._encoder.is_plain(text):
            before, said, after = without_blanks(text)
            texts.append(said)
            return f"{before}{MARK}{len(texts) - 1}{MARK_END}{after}"
        return text if message["role"] == "system" else None

    def _skeleton(self, kind: list[tuple[Role, str]], trained: Sequence[int]) -> _Skeleton | None:
        """Return the skeleton of conversations of KIND; None if it cannot be written."""
        marked = Conversation([{"role": role, "content": text} for role, text in kind])
        try:
            turns = self._write(marked, trained)
        except Unusable:
            # Written alone, the row gets a reason of its own.
            return None
        fillings: dict[str, int] = {}
        blanks = [
            (self._blank(turn.prompt, fillings), self._blank(turn.completion, fillings))
            for turn in turns
        ]
        return _Skeleton([_parts(piece) for piece in fillings], blanks)

    def _blank(self, text: str, fillings: dict[str, int]) -> _Blank:
        pieces = self._encoder.split(text)
        at = [
            (index, fillings.setdefault(piece, len(fillings)))
            for index, piece in enumerate(pieces)
            if isinstance(piece, str) and MARK in piece
        ]
        return _Blank(pieces, at)


def _is_unicode(texts: Sequence[str]) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(piece: str) -> list[str | int]:
    parts = enumerate(_MARK.split(piece))
    return [int(part) if index % 2 else part for index, part in parts if part]
