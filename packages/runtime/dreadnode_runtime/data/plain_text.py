"""Rows of text instead of conversations: plain text for continued pretraining, and rendered text.

| `format` | fields | control tokens in it | carries loss |
| --- | --- | --- | --- |
| `text` | `text` | are text | everything, and the end-of-document token that follows it |
| `rendered` | `text` | are control tokens | everything |
| `rendered` | `prompt`, `completion` | are control tokens | the completion |

Packed, all rows make one stream that is cut into sequences of `max_length` tokens. Otherwise each
row is a sequence, cut at its end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.plain_rows import Document, read_document
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.rows import read_rows, usable
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed

Keep = Callable[[list[Example]], None]


def prepare_text(
    path: Path,
    rendering: Rendering,
    *,
    max_length: int,
    rendered: bool,
    packed: bool,
    strict: bool = False,
    keep: Keep,
) -> Counts:
    """Encode the text of every row of the JSONL file at PATH, hand sequences to KEEP, and count.

    Each call of KEEP gets one row's sequence, or one packed sequence.

    Raises:
        JobFailed: A line is not JSON, no row is left, or STRICT forbids what is lost.
    """
    counts = Counts()
    stream = _Stream(max_length, packed, counts, keep)
    try:
        for number, row in read_rows(path):
            counts.rows += 1
            try:
                document = read_document(usable(row), rendered=rendered)
                if packed and document.weight != 1:
                    raise Unusable("it has a `weight`, and packed rows share their sequences")  # noqa: TRY301
                tokens, start = _encoded(document, rendering, rendered=rendered)
                if not packed and start >= max_length:
                    raise Unusable("its completion lies beyond max_sequence_length")  # noqa: TRY301
            except Unusable as unusable:
                counts.drop(number, str(unusable))
                continue
            counts.usable += 1
            counts.read(document)
            stream.add(number, tokens, start, document.weight)
        stream.end()
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if strict:
        counts.forbid()
    counts.refuse_if_unusable(counts.usable, nothing="None of the {rows} rows can be trained on")
    return counts


def _encoded(document: Document, rendering: Rendering, *, rendered: bool) -> tuple[list[int], int]:
    """Return the tokens of DOCUMENT, and where those that carry loss start."""
    if rendered:
        prompt = rendering.already_rendered(document.prompt) if document.prompt else []
        return prompt + rendering.already_rendered(document.text), len(prompt)
    return rendering.document(document.text), 0


@dataclass(slots=True)
class _Stream:
    """Cuts what is added into sequences, and counts them."""

    max_length: int
    packed: bool
    counts: Counts
    keep: Keep
    _tokens: list[int] = field(default_factory=list)
    _mask: list[bool] = field(default_factory=list)
    _row: int = 0

    def add(self, row: int, tokens: list[int], start: int, weight: float) -> None:
        """Take in the TOKENS of ROW, of which those from START carry loss."""
        mask = [False] * start + [True] * (len(tokens) - start)
        if not self.packed:
            self.counts.truncated += len(tokens) > self.max_length
            self._give(tokens[: self.max_length], mask[: self.max_length], row, weight)
            return
        self._row = self._row or row
        self._tokens += tokens
        self._mask += mask
        at = 0
        while len(self._tokens) - at >= self.max_length:
            end = at + self.max_length
            self._give(self._tokens[at:end], self._mask[at:end], self._row)
            at, self._row = end, row
        del self._tokens[:at], self._mask[:at]

    def end(self) -> None:
        """Give what is left of the stream."""
        if self._tokens:
            self._give(self._tokens, self._mask, self._row)

    def _give(self, tokens: list[int], mask: list[bool], row: int, weight: float = 1.0) -> None:
        carries = np.array(mask, np.float32)
        # Nothing comes before the first token, so it cannot be predicted.
        carries[:1] = 0
        total = carries.sum()
        if not total:
            return
        self.counts.sequences += 1
        self.counts.tokens += len(tokens)
        self.counts.trained_tokens += int(total)
        weights: Any = (carries * np.float32(weight / total)).astype(np.float32)
        self.keep([Example(np.array(tokens, np.int32), weights, row)])
