"""An overview of rendered rows: how long they are, and which of them are alike.

It holds 16 bytes for each row, so that a check of a million rows needs as much memory as one of a
thousand, within a few megabytes.
"""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dreadnode_runtime.data.sequences import Example

NAMED = 5
"""How many pairs of equal rows are named."""
BINS = 12
"""The largest number of bins of a histogram."""
WIDTHS = (1, 2, 5)

Ints = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]


class Overview:
    """Collects the lengths and the digests of rows.

    Attributes:
        input_tokens: Tokens that a training pass gets for each row.
    """

    def __init__(self) -> None:
        self.input_tokens = array("i")
        # How many rows have each length: there are far fewer lengths than rows.
        self._lengths: Counter[int] = Counter()
        self._digests = array("Q")
        self._rows = array("i")
        # Where the rows of each dataset start.
        self._starts: list[tuple[int, str]] = []

    def start(self, dataset: str) -> None:
        """Take the rows that follow as those of DATASET."""
        self._starts.append((len(self._rows), dataset))

    def add(self, examples: Sequence[Example]) -> None:
        """Take in the sequences of one row."""
        digest = hashlib.blake2b(digest_size=8)
        for example in examples:
            digest.update(example.tokens.tobytes())
            digest.update(example.trained.tobytes())
        self.input_tokens.append(sum(each.input_tokens for each in examples))
        self._add(examples[0].row, sum(len(each.tokens) for each in examples), digest.digest())

    def add_prompt(self, row: int, tokens: Sequence[int]) -> None:
        """Take in the tokens of a prompt."""
        data = np.asarray(tokens, np.int32).tobytes()
        self.input_tokens.append(len(tokens))
        self._add(row, len(tokens), hashlib.blake2b(data, digest_size=8).digest())

    def report(self) -> Mapping[str, Any]:
        """Return the lengths and the duplicates as a check reports them."""
        return {"lengths": self._length_report(), "duplicates": self._duplicates()}

    def shared_with(self, training: "Overview") -> Mapping[str, Any]:
        """Return how many rows TRAINING has as well, and the first of them."""
        shared = np.flatnonzero(np.isin(self._of_digests(), training._of_digests()))
        return {"count": len(shared), "rows": [self._rows[at] for at in shared[:NAMED]]}

    def _add(self, row: int, length: int, digest: bytes) -> None:
        self._rows.append(row)
        self._lengths[length] += 1
        self._digests.append(int.from_bytes(digest, "little"))

    def _of_digests(self) -> Digests:
        return np.frombuffer(self._digests, np.uint64) if self._digests else np.zeros(0, np.uint64)

    def _duplicates(self) -> Mapping[str, Any]:
        digests = self._of_digests()
        # Stable, so that equal rows keep their order: all but the first one of them are repeats.
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        repeats = order[1:][ordered[1:] == ordered[:-1]]
        named = np.sort(repeats)[:NAMED].tolist()
        firsts = order[np.searchsorted(ordered, digests[named])].tolist()
        pairs = zip(named, firsts, strict=True)
        return {
            "count": len(repeats),
            "rows": [{**self._place(at), "of": self._place(first)} for at, first in pairs],
        }

    def _place(self, at: int) -> dict[str, Any]:
        dataset = next((name for start, name in reversed(self._starts) if start <= at), "")
        return {"row": self._rows[at], **({"dataset": dataset} if dataset else {})}

    def _length_report(self) -> Mapping[str, Any] | None:
        if not self._lengths:
            return None
        lengths = np.array(sorted(self._lengths), np.int64)
        rows = np.array([self._lengths[length] for length in lengths.tolist()], np.int64)
        up_to = np.cumsum(rows)
        total = int(up_to[-1])
        median, p95 = (
            int(lengths[np.searchsorted(up_to, math.ceil(share * (total - 1)), side="right")])
            for share in (0.5, 0.95)
        )
        return {
            "min": int(lengths[0]),
            "median": median,
            "mean": round(float((lengths * rows).sum() / total), 1),
            "p95": p95,
            "max": int(lengths[-1]),
            "bins": list(_bins(lengths, rows)),
        }


def _bins(lengths: Ints, rows: Ints) -> Iterable[Mapping[str, int]]:
    """Yield the bins of a histogram, each with its least and its greatest length and its rows."""
    least, most = int(lengths[0]), int(lengths[-1])
    width = _width(most - least + 1)
    start = least // width * width
    counts = np.bincount((lengths - start) // width, rows)
    for index, count in enumerate(counts.astype(int).tolist()):
        begin = start + index * width
        yield {"least": begin, "most": begin + width - 1, "rows": count}


def _width(span: int) -> int:
    """Return a round width with which at most `BINS` bins hold SPAN lengths."""
    scale = 1
    while True:
        for width in WIDTHS:
            # One more than the quotient: the first bin starts at a multiple of the width.
            if -(-span // (width * scale)) + 1 <= BINS:
                return width * scale
        scale *= 10
