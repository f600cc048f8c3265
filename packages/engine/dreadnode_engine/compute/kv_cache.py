"""A key-value cache in which sequences of different lengths share one batch.

Row `b` holds its keys at positions 0 to `lengths[b] - 1`; a decoding step appends one position to
every row. Rows come and go between steps, and the rows in use are always the first ones.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

GROWTH = 64
"""The cache grows by this many positions, and doubles when that is more."""


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, (rows, heads, positions, width), written in place."""

    def __init__(self, slots: "SlotCache") -> None:
        super().__init__()
        self._slots = slots

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Append one position per row, and return what the new tokens may look at."""
        slots = self._slots
        rows, places = slots.rows, slots.places
        self.keys[rows, :, places] = key_states[:, :, 0]
        self.values[rows, :, places] = value_states[:, :, 0]
        return self.keys[: slots.count, :, : slots.span], self.values[
            : slots.count, :, : slots.span
        ]

    def get_seq_length(self) -> int:
        """Return the positions before this step, of the longest row."""
        return self._slots.span - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the positions that a mask would span, and where they start."""
        return self._slots.span, 0


class SlotCache(Cache):  # type: ignore[misc]
    """The cache of a batch whose rows start and end at different times."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[SlotLayer]
        self.lengths: list[int] = []
        self.rows = self.places = torch.zeros(0, dtype=torch.int64)
        self.span = 0

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self.lengths)

    def admit(self, prefilled: DynamicCache, row: int, length: int, copies: int) -> None:
        """Add COPIES rows that start with the first LENGTH positions of ROW of PREFILLED."""
        if not self.layers:
            self.layers = [SlotLayer(self) for _ in prefilled.layers]
        start, end = self.count, self.count + copies
        self.lengths += [length] * copies
        for mine, theirs in zip(self.layers, prefilled.layers, strict=True):
            for name in ("keys", "values"):
                source = getattr(theirs, name)[row, :, :length]
                store = self._room(getattr(mine, name), source, end, length + 1)
                store[start:end, :, :length] = source
                setattr(mine, name, store)
            mine.is_initialized = True

    def remove(self, row: int) -> None:
        """Free ROW; the last row takes its place."""
        last = self.count - 1
        if row != last:
            length = self.lengths[last]
            for layer in self.layers:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self.layers = []

    def begin_step(self) -> tuple[Tensor, Tensor | None]:
        """Prepare to append one position to each row.

        Returns:
            The position of each row's new token, (rows, 1), and the mask of what each may look
            at, (rows, 1, 1, span), or None where every row may look at everything.
        """
        self.span = max(self.lengths) + 1
        for layer in self.layers:
            for name in ("keys", "values"):
                store = getattr(layer, name)
                setattr(layer, name, self._room(store, store[0], self.count, self.span))
        device = self.layers[0].keys.device
        places = torch.tensor(self.lengths)
        mask = None
        if min(self.lengths) + 1 < self.span:
            mask = (torch.arange(self.span) <= places[:, None])[:, None, None].to(device)
        self.places = places.to(device)
        self.rows = torch.arange(self.count, device=device)
        self.lengths = [length + 1 for length in self.lengths]
        return self.places[:, None], mask

    @staticmethod
    def _room(store: Tensor | None, like: Tensor, rows: int, positions: int) -> Tensor:
        """Return STORE, or a larger copy of it that has room for ROWS and POSITIONS."""
        heads, _, width = like.shape
        have = (0, 0) if store is None else (store.shape[0], store.shape[2])
        if store is not None and rows <= have[0] and positions <= have[1]:
            return store
        new_rows = max(rows, min(2 * have[0], rows + 32)) if rows > have[0] else have[0]
        more = max(positions + GROWTH, min(2 * have[1], positions + 1024))
        new_positions = more if positions > have[1] else have[1]
        larger = like.new_zeros((new_rows, heads, new_positions, width))
        if store is not None:
            larger[: have[0], :, : have[1]] = store
        return larger
