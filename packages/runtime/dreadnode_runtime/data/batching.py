"""Which rows each optimizer step uses: a function of seed and step, so that a resume repeats it."""

import random
from array import array
from functools import lru_cache


class Batching:
    """Goes through ROWS rows epoch by epoch and shuffles each epoch separately.

    The last batch of an epoch can be smaller: each row occurs once in each epoch.
    """

    def __init__(self, rows: int, per_step: int, seed: int, *, shuffle: bool = True) -> None:
        self._rows = rows
        self._per_step = per_step
        self._seed = seed
        self._shuffle = shuffle
        self.steps_per_epoch = -(-rows // per_step)
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int) -> list[int]:
        """Return the row indices, from 0, of optimizer step STEP, from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self._per_step
        return self._epoch(epoch)[start : start + self._per_step].tolist()

    def _permutation(self, epoch: int) -> "array[int]":
        # A tenth of a list's memory, for datasets of millions of rows.
        indices = array("l", range(self._rows))
        if self._shuffle:
            # A string seed is hashed as a whole: neighboring seeds and epochs are unrelated.
            random.Random(f"{self._seed}/{epoch}").shuffle(indices)  # noqa: S311
        return indices
