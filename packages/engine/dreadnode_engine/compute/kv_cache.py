"""Caches for decoding: each client's sequences share one, at any lengths.

Row `b` of a cache has read `lengths[b]` tokens; a decoding step appends one to every row. Rows
come and go between steps, and the rows in use are always the first. What a row keeps depends on
the kind of each layer (`layer_slots.py`).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from dreadnode_engine.compute.layer_slots import (
    EntrySlots,
    KeyValueSlots,
    RecurrentSlots,
    Slots,
    Step,
    new_slots,
)
from dreadnode_engine.compute.layer_states import LayerStates


class SlotCache:
    """The cache of sequences that start and end at different times."""

    def __init__(self) -> None:
        self.layers: list[Slots | None] = []
        self.lengths: list[int] = []
        self._device = torch.device("cpu")
        self._steps: dict[int | None, Step] = {}
        self._before: list[int] = []

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self.lengths)

    def states_of(self, row: int) -> LayerStates:
        """Return the states of ROW; they change with the next step."""
        length = self.lengths[row]
        return [None if layer is None else layer.read(row, length) for layer in self.layers]

    def admit(self, states: LayerStates, row: int, length: int, copies: int) -> None:
        """Add COPIES rows with the first LENGTH positions of ROW of STATES."""
        if not self.layers:
            self.layers = [new_slots(state) for state in states]
            self._device = next(state[0].device for state in states if state is not None)
        start, end = self.count, self.count + copies
        self.lengths += [length] * copies
        for layer, state in zip(self.layers, states, strict=True):
            if layer is not None:
                layer.admit(state, row, length, start, end)

    def remove(self, row: int) -> None:
        """Free ROW; the last row takes its place."""
        last = self.count - 1
        if row != last:
            self.lengths[row] = self.lengths[last]
            for layer in self.layers:
                if layer is not None:
                    layer.move(last, row, self.lengths[row])
        self.lengths.pop()
        if not self.lengths:
            self.layers = []

    def begin_step(self) -> Tensor:
        """Prepare to append one position to each row; return these positions, (rows,)."""
        self._before = list(self.lengths)
        self._steps = {}
        self.lengths = [length + 1 for length in self.lengths]
        return torch.tensor(self._before, device=self._device)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[KeyValueSlots, Step]:
        """Write KEY and VALUE (rows, groups, width) of LAYER; return where they are read."""
        slots = cast("KeyValueSlots", self.layers[layer])
        step = self._steps.get(slots.window)
        if step is None:
            step = self._steps[slots.window] = Step.of(self._before, slots.window, self._device)
        slots.append(step, key, value)
        return slots, step


class SlotStep:
    """One decoding step over the rows of several caches, one cache after the other.

    Attributes:
        counts: how many rows each cache has.
        positions: of the newest token of each row, (rows,).
        lengths: tokens before it of each row.
    """

    def __init__(self, caches: Sequence[SlotCache]) -> None:
        self._caches = caches
        self.counts = [cache.count for cache in caches]
        self.lengths = [length for cache in caches for length in cache.lengths]
        self.positions = torch.cat([cache.begin_step() for cache in caches])

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        sinks: Tensor | None = None,
        profile: Tensor | None = None,
    ) -> Tensor:
        """Append KEY and VALUE (rows, groups, width), and attend each row to its own cache.

        Args:
            layer: its number.
            query: (rows, heads, width).
            key: of the newest token, (rows, groups, width).
            value: as `key`.
            scale: the factor of the scores.
            sinks: a score of each head that takes its share of the softmax, (rows, heads).
            profile: scores of each head by how far back a position is, (rows, heads, extent).

        Returns:
            (rows, heads * width).
        """
        outputs = []
        split = map(self._split, (query, key, value))
        extra = [
            [None] * len(self.counts) if each is None else self._split(each)
            for each in (sinks, profile)
        ]
        for cache, q, k, v, s, p in zip(self._caches, *split, *extra, strict=True):
            slots, step = cache.append(layer, k, v)
            outputs.append(slots.attend(step, q, scale, s, p))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def recurrent(self, layer: int) -> list[RecurrentSlots]:
        """Return the slots of a recurrent LAYER of each cache."""
        return [cast("RecurrentSlots", cache.layers[layer]) for cache in self._caches]

    def entries(self, layer: int, new: Mapping[int, Tensor]) -> Tensor:
        """Append the NEW entries of a compressor, (width,) by row, and return those of all rows.

        Returns:
            (rows, 1, entries, width), padded.
        """
        parts, start = [], 0
        for cache, count in zip(self._caches, self.counts, strict=True):
            end = start + count
            mine = {row - start: entry for row, entry in new.items() if start <= row < end}
            slots = cast("EntrySlots", cache.layers[layer])
            parts.append(slots.append(mine, self.lengths[start:end]))
            start = end
        return _padded(parts, max(part.shape[2] for part in parts), 2)

    def merged(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append KEY and VALUE (rows, groups, width), and return those of all rows, padded.

        Returns:
            Keys and values (rows, groups, span, width), and the mask (rows, 1, 1, span) of the
            positions that each row may read.
        """
        split = map(self._split, (key, value))
        parts = [
            cache.append(layer, k, v) for cache, k, v in zip(self._caches, *split, strict=True)
        ]
        span = max(step.span for _, step in parts)
        views = [slots.view(step) for slots, step in parts]
        masks = [
            torch.ones(len(step.rows), 1, 1, step.span, dtype=torch.bool, device=key.device)
            if step.mask is None
            else step.mask
            for _, step in parts
        ]
        keys, values = ([view[i] for view in views] for i in (0, 1))
        return _padded(keys, span, 2), _padded(values, span, 2), _padded(masks, span, 3)

    def _split(self, tensor: Tensor) -> Sequence[Tensor]:
        """Return the rows of TENSOR of each cache."""
        return [tensor] if len(self.counts) == 1 else torch.split(tensor, self.counts)


def _padded(parts: Sequence[Tensor], span: int, dim: int) -> Tensor:
    """Concatenate PARTS, each padded with zeros to SPAN along DIM."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].new_zeros(
        (sum(len(part) for part in parts), *parts[0].shape[1:dim], span, *parts[0].shape[dim + 1 :])
    )
    start = 0
    for part in parts:
        whole[start : start + len(part)].narrow(dim, 0, part.shape[dim]).copy_(part)
        start += len(part)
    return whole
