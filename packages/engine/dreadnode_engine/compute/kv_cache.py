"""Key-value caches for decoding: each client's sequences share one, at any lengths.

Row `b` of a cache has its keys at positions 0 to `lengths[b] - 1`; a decoding step appends one
position to every row. Rows come and go between steps, and the rows in use are always the first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

GROWTH = 64
"""A cache grows by so many positions, and doubles when that is more."""

LayerStates = Sequence[tuple[Tensor, Tensor]]
"""For each layer, keys and values (rows, heads, positions, width)."""


class SlotCache:
    """The cache of sequences that start and end at different times."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []
        self._places = self._rows = torch.zeros(0, dtype=torch.int64)
        self._mask: Tensor | None = None
        self._span = 0

    @property
    def states(self) -> LayerStates:
        """Keys and values of each layer."""
        return list(zip(self.keys, self.values, strict=True))

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self.lengths)

    def admit(self, states: LayerStates, row: int, length: int, copies: int) -> None:
        """Add COPIES rows with the first LENGTH positions of ROW of STATES."""
        if not self.keys:
            empty = torch.empty(0)
            self.keys, self.values = [empty] * len(states), [empty] * len(states)
        start, end = self.count, self.count + copies
        self.lengths += [length] * copies
        for layer, pair in enumerate(states):
            for store, source in zip((self.keys, self.values), pair, strict=True):
                prefix = source[row, :, :length]
                store[layer] = _room(store[layer], prefix, end, length + 1)
                store[layer][start:end, :, :length] = prefix

    def remove(self, row: int) -> None:
        """Free ROW; the last row takes its place."""
        last = self.count - 1
        if row != last:
            length = self.lengths[last]
            for store in (self.keys, self.values):
                for layer in store:
                    layer[row, :, :length] = layer[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self.keys, self.values = [], []

    def begin_step(self) -> Tensor:
        """Prepare to append one position to each row; return these positions, (rows,)."""
        self._span = max(self.lengths) + 1
        if self.keys[0].shape[2] < self._span:
            for store in (self.keys, self.values):
                for layer, tensor in enumerate(store):
                    store[layer] = _room(tensor, tensor[0], self.count, self._span)
        device = self.keys[0].device
        places = torch.tensor(self.lengths)
        self._mask = None
        if min(self.lengths) + 1 < self._span:
            mask = torch.arange(self._span) <= places[:, None]
            self._mask = mask[:, None, None].to(device)
        self._places = places.to(device)
        self._rows = torch.arange(self.count, device=device)
        self.lengths = [length + 1 for length in self.lengths]
        return self._places

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Append KEY and VALUE (rows, groups, width) and attend with QUERY (rows, heads, width)."""
        keys, values = self.keys[layer], self.values[layer]
        count, groups, width = key.shape
        if self._mask is None:
            # All rows are equally long: a slice is faster than indices.
            keys[:count, :, self._span - 1] = key
            values[:count, :, self._span - 1] = value
        else:
            keys[self._rows, :, self._places] = key
            values[self._rows, :, self._places] = value
        # The heads of a group share its keys: as positions of one query they need no copies.
        query = query.view(count, groups, -1, width)
        output = scaled_dot_product_attention(
            query,
            keys[:count, :, : self._span],
            values[:count, :, : self._span],
            attn_mask=self._mask,
            scale=scale,
        )
        return output.reshape(count, -1)


class SlotStep:
    """One decoding step over the rows of several caches, one cache after the other."""

    def __init__(self, caches: Sequence[SlotCache]) -> None:
        self._caches = caches
        self.positions = torch.cat([cache.begin_step() for cache in caches])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend each row to its own cache; (rows, heads, width) -> (rows, heads * width)."""
        if len(self._caches) == 1:
            return self._caches[0].attend(layer, query, key, value, scale)
        counts = [cache.count for cache in self._caches]
        parts = [torch.split(tensor, counts) for tensor in (query, key, value)]
        outputs = [
            cache.attend(layer, q, k, v, scale)
            for cache, q, k, v in zip(self._caches, *parts, strict=True)
        ]
        return torch.cat(outputs)


def _room(store: Tensor, like: Tensor, rows: int, positions: int) -> Tensor:
    """Return STORE, or a larger copy of it with room for ROWS and POSITIONS."""
    heads, _, width = like.shape
    have = (store.shape[0], store.shape[2]) if store.ndim == 4 else (0, 0)
    if rows <= have[0] and positions <= have[1]:
        return store
    new_rows = max(rows, min(2 * have[0], rows + 32)) if rows > have[0] else have[0]
    more = max(positions + GROWTH, min(2 * have[1], positions + 1024))
    new_positions = more if positions > have[1] else have[1]
    larger = like.new_zeros((new_rows, heads, new_positions, width))
    if store.ndim == 4:
        larger[: have[0], :, : have[1]] = store
    return larger
