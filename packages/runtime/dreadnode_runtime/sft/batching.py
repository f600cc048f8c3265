"""Which rows an optimizer step takes in: a function of seed and step, so a resume repeats it."""

import random
from functools import lru_cache


class Order:
    """Goes through ROWS rows epoch by epoch, each epoch shuffled on its own.

    The last batch of an epoch may be smaller: every row comes once in every epoch.
    """

    def __init__(self, rows: int, per_step: int, seed: int, *, shuffle: bool = True) -> None:
        self._rows = rows
        self._per_step = per_step
        self._seed = seed
        self._shuffle = shuffle
        self.steps_per_epoch = -(-rows // per_step)
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int) -> list[int]:
        """Return the indices, from 0, of the rows of optimizer step STEP, from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self._per_step
        return self._epoch(epoch)[start : start + self._per_step]

    def _permutation(self, epoch: int) -> list[int]:
        order = list(range(self._rows))
        if self._shuffle:
            # A text seed is hashed whole, so that neighbouring seeds and epochs share nothing.
            random.Random(f"{self._seed}/{epoch}").shuffle(order)  # noqa: S311
        return order
