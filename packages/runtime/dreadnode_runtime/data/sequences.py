"""Sequences to train on: tokens, what each token's loss counts, and images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.data.vision import Image, Written


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence to train on.

    Attributes:
        tokens: int32 of shape (T,): prompt and answer.
        weights: float32 of shape (T,): what a token's loss counts, 0 where there is none. The first
            is 0, since nothing comes before it.
        row: Number of the dataset's row, from 1.
        images: Images among the tokens, in order.
        dataset: Name of the dataset, where there are several.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    row: int
    images: tuple[Image, ...] = ()
    dataset: str = ""

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which tokens carry loss, of shape (T,)."""
        return self.weights > 0

    @property
    def input_tokens(self) -> int:
        """Tokens that a training pass gets, which are paid for: all but the last one."""
        return len(self.tokens) - 1


@dataclass(frozen=True, slots=True)
class Rendered:
    """The sequences that teach one row, and whether something was cut off."""

    examples: list[Example]
    cut: bool


@dataclass(slots=True)
class _Sequence:
    """Tokens, and where those that carry loss start and end."""

    tokens: npt.NDArray[np.int32]
    spans: list[tuple[int, int]]

    def continues(self, prompt: npt.NDArray[np.int32]) -> bool:
        """Return whether PROMPT begins with all tokens of it."""
        length = len(self.tokens)
        return length <= len(prompt) and bool((prompt[:length] == self.tokens).all())

    def carries(self, max_length: int) -> npt.NDArray[np.bool_]:
        """Return which tokens carry loss, up to the last one that does within MAX_LENGTH."""
        # Nothing comes before the first token, so it cannot be predicted.
        spans = [(max(start, 1), min(end, max_length)) for start, end in self.spans]
        spans = [(start, end) for start, end in spans if start < end]
        # What follows the last token that carries loss changes nothing: it is not worth its price.
        found = np.zeros(spans[-1][1] if spans else 0, np.bool_)
        for start, end in spans:
            found[start:end] = True
        return found


def sequences_of(
    pairs: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]],
    row: int,
    weight: float,
    max_length: int,
) -> Rendered | Unusable:
    """Return the sequences of the turns whose prompts and completions PAIRS hold as tokens."""
    sequences: list[_Sequence] = []
    for prompt, completion in pairs:
        whole = np.concatenate((prompt, completion))
        if sequences and sequences[-1].continues(prompt):
            sequences[-1].tokens = whole
        else:
            sequences.append(_Sequence(whole, []))
        sequences[-1].spans.append((len(prompt), len(whole)))
    cut = any(len(each.tokens) > max_length for each in sequences)
    kept = [(each.tokens, each.carries(max_length)) for each in sequences]
    total = sum(int(np.count_nonzero(carries)) for _, carries in kept)
    if not total:
        return Unusable("its answer lies beyond max_sequence_length" if cut else "no answer")
    share = np.float32(weight / total)
    return Rendered(
        [
            Example(tokens[: len(carries)].copy(), carries * share, row)
            for tokens, carries in kept
            if len(carries)
        ],
        cut,
    )


def sequences_with_images(
    written: Sequence[Written], row: int, weight: float
) -> Rendered | Unusable:
    """Return the sequences WRITTEN, whose weights add up to WEIGHT."""
    total = sum(sum(each.carries) for each in written)
    if not total:
        return Unusable("no answer")
    share = np.float32(weight / total)
    return Rendered(
        [
            Example(
                np.array(each.tokens, np.int32),
                (np.array(each.carries, np.float32) * share).astype(np.float32),
                row,
                tuple(each.images),
            )
            for each in written
        ],
        cut=False,
    )
