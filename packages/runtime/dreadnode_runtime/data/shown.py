"""A rendered row as text, with the tokens that carry loss marked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example

SAMPLED = 200
"""How many rows the characters per token are measured on."""
SHOWN_TOKENS = 4000
"""How many tokens of a sequence are shown."""


@dataclass(slots=True)
class RowShown:
    """The row that a check shows.

    Attributes:
        row: Its number; None for the first one that is usable.
        found: Its sequences, once it has been rendered.
    """

    row: int | None = None
    found: Sequence[Example] = ()

    def offer(self, examples: Sequence[Example]) -> None:
        """Take the sequences of a row, if it is the one."""
        if not self.found and self.row in (None, examples[0].row):
            self.found = examples

    def report(self, rendering: Rendering) -> Mapping[str, Any] | None:
        """Return the row as a check reports it; None if there is none of this number."""
        if not self.found:
            return None
        return {
            "row": self.found[0].row,
            "sequences": [_sequence(example, rendering) for example in self.found],
        }


def _sequence(example: Example, rendering: Rendering) -> Mapping[str, Any]:
    return {
        "parts": list(_parts(example, rendering)),
        "tokens": len(example.tokens),
        "tokens_not_shown": max(len(example.tokens) - SHOWN_TOKENS, 0),
    }


def _parts(example: Example, rendering: Rendering) -> Iterator[Mapping[str, Any]]:
    """Yield the text of neighboring tokens that carry loss, or do not, or are an image."""
    images = {
        at: image
        for image in example.images
        for at in range(image.start, image.start + image.length)
    }
    carries = example.trained.tolist()
    places = range(min(len(example.tokens), SHOWN_TOKENS))
    for (trained, image), run in groupby(places, lambda at: (carries[at], images.get(at))):
        tokens = example.tokens[list(run)]
        text = (
            rendering.decode(tokens.tolist()) if image is None else f"<image: {len(tokens)} tokens>"
        )
        yield {"text": text, "trained": trained}


def prompt_shown(row: int, tokens: Sequence[int], rendering: Rendering) -> Mapping[str, Any]:
    """Return a prompt as a check reports it; nothing of it carries loss."""
    part = {"text": rendering.decode(tokens[:SHOWN_TOKENS]), "trained": False}
    left = max(len(tokens) - SHOWN_TOKENS, 0)
    return {
        "row": row,
        "sequences": [{"parts": [part], "tokens": len(tokens), "tokens_not_shown": left}],
    }


class Density:
    """Measures how many characters a token has, on the first rows."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering
        self._rows = self._characters = self._tokens = 0

    def offer(self, tokens: Sequence[int]) -> None:
        """Measure the TOKENS of a row, unless enough rows were measured."""
        if self._rows < SAMPLED:
            self._rows += 1
            self._characters += len(self._rendering.decode(tokens))
            self._tokens += len(tokens)

    def report(self) -> float | None:
        """Return the characters per token; None without rows."""
        return round(self._characters / self._tokens, 3) if self._tokens else None
