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


def sequences_of(
    pairs: Sequence[tuple[list[int], list[int]]], row: int, weight: float, max_length: int
) -> Rendered | Unusable:
    """Return the sequences of the turns whose prompts and completions PAIRS hold as tokens."""
    sequences: list[tuple[list[int], list[bool]]] = []
    for prompt, completion in pairs:
        tokens, mask = sequences[-1] if sequences else ([], [])
        if not tokens or prompt[: len(tokens)] != tokens:
            tokens, mask = [], []
            sequences.append((tokens, mask))
        mask += [False] * (len(prompt) - len(tokens)) + [True] * len(completion)
        tokens += prompt[len(tokens) :]
        tokens += completion
    cut = any(len(tokens) > max_length for tokens, _ in sequences)
    kept = []
    for tokens, mask in sequences:
        carries = np.array(mask[:max_length], np.bool_)
        carries[:1] = False
        at = np.flatnonzero(carries)
        # What follows the last token that carries loss changes nothing: it is not worth its price.
        if len(at):
            end = at[-1] + 1
            kept.append((np.array(tokens[:end], np.int32), carries[:end]))
    total = sum(int(carries.sum()) for _, carries in kept)
    if not total:
        return Unusable("its answer lies beyond max_sequence_length" if cut else "no answer")
    share = np.float32(weight / total)
    return Rendered(
        [Example(tokens, (mask * share).astype(np.float32), row) for tokens, mask in kept], cut
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
