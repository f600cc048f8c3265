"""The cache slots of one layer: one row for each sequence, of whatever its kind of layer keeps.

Rows come and go between steps, and the rows in use are always the first. A layer with a sliding
window keeps a ring: position `p` lies at `p % window`, so that a row takes no more memory than
the window. Keys have their positions applied, so their order does not matter to attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dreadnode_engine.compute.layer_states import Entries, KeyValues, LayerState, Recurrent
from dreadnode_engine.compute.relative_attention import relative_bias

GROWTH = 64
"""A cache grows by so many positions, and doubles when that is more."""


@dataclass(frozen=True)
class Step:
    """Where one decoding step writes and reads in the layers of one window.

    Attributes:
        rows: their numbers.
        places: where the new token of each row is written.
        place: the same for all rows, or None where they differ.
        span: how many places are read.
        mask: the places that each row may read, (rows, 1, 1, span); None for all.
    """

    rows: Tensor
    places: Tensor
    place: int | None
    span: int
    mask: Tensor | None

    @classmethod
    def of(cls, lengths: list[int], window: int | None, device: torch.device) -> "Step":
        """Return the step that appends one position to rows of LENGTHS."""
        longest = max(lengths)
        span = longest + 1 if window is None else min(longest + 1, window)
        positions = torch.tensor(lengths)
        mask = None
        if min(lengths) + 1 < span:
            mask = (torch.arange(span) <= positions[:, None])[:, None, None].to(device)
        places = positions if window is None else positions % window
        same = min(lengths) == longest
        rows = torch.arange(len(lengths), device=device)
        return cls(rows, places.to(device), int(places[0]) if same else None, span, mask)


class Slots(Protocol):
    """The slots of one layer."""

    def admit(self, state: Any, row: int, length: int, start: int, end: int) -> None:
        """Fill the rows from START to END with the first LENGTH tokens of ROW of STATE."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Move the row SOURCE, of LENGTH tokens, to TARGET."""
        ...

    def read(self, row: int, length: int) -> LayerState:
        """Return the state of ROW, which has LENGTH tokens."""
        ...


class KeyValueSlots:
    """The slots of a layer with attention."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys = self.values = torch.empty(0)

    def admit(self, state: KeyValues, row: int, length: int, start: int, end: int) -> None:
        """Fill the rows from START to END with the first LENGTH tokens of ROW of STATE."""
        kept = range(0 if self.window is None else max(0, length - self.window), length)
        room = length + 1 if self.window is None else min(length + 1, self.window)
        both = []
        for store, source in ((self.keys, state.keys), (self.values, state.values)):
            prefix = source[row, :, kept.start - state.first : length - state.first]
            store = _room(store, prefix, end, room, self.window)
            if self.window is None or not kept.start:
                store[start:end, :, :length] = prefix
            else:
                places = torch.arange(kept.start, length, device=prefix.device) % self.window
                store[start:end, :, places] = prefix
            both.append(store)
        self.keys, self.values = both

    def move(self, source: int, target: int, length: int) -> None:
        """Move the row SOURCE, of LENGTH tokens, to TARGET."""
        for store in (self.keys, self.values):
            store[target, :, :length] = store[source, :, :length]

    def read(self, row: int, length: int) -> KeyValues:
        """Return the state of ROW, which has LENGTH tokens."""
        keys, values = self.keys[row : row + 1], self.values[row : row + 1]
        if self.window is None or length <= self.window:
            return KeyValues(keys[:, :, :length], values[:, :, :length], 0, self.window)
        first = length - self.window
        places = torch.arange(first, length, device=keys.device) % self.window
        return KeyValues(keys[:, :, places], values[:, :, places], first, self.window)

    def append(self, step: Step, key: Tensor, value: Tensor) -> None:
        """Write KEY and VALUE (rows, groups, width) of the newest tokens."""
        if self.keys.shape[2] < step.span:
            count = len(step.rows)
            self.keys = _room(self.keys, self.keys[0], count, step.span, self.window)
            self.values = _room(self.values, self.values[0], count, step.span, self.window)
        if step.place is not None:
            # All rows are equally long: a slice is faster than indices.
            self.keys[: len(key), :, step.place] = key
            self.values[: len(key), :, step.place] = value
        else:
            self.keys[step.rows, :, step.places] = key
            self.values[step.rows, :, step.places] = value

    def view(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the keys and values that STEP reads, (rows, groups, span, width)."""
        count = len(step.rows)
        return self.keys[:count, :, : step.span], self.values[:count, :, : step.span]

    def attend(
        self,
        step: Step,
        query: Tensor,
        scale: float,
        sinks: Tensor | None,
        profile: Tensor | None = None,
    ) -> Tensor:
        """Attend with QUERY (rows, heads, width); return (rows, heads * width).

        PROFILE (rows, heads, extent) is added to the scores, by how far back a position is.
        """
        keys, values = self.view(step)
        count, groups = keys.shape[:2]
        # The heads of a group share its keys: as positions of one query they need no copies.
        query = query.view(count, groups, -1, query.shape[-1])
        if sinks is None and profile is None:
            output = scaled_dot_product_attention(
                query, keys, values, attn_mask=step.mask, scale=scale
            )
            return output.reshape(count, -1)
        scores = query @ keys.transpose(-1, -2) * scale
        if profile is not None:
            scores = scores + relative_bias(profile, self._distances(step)).view_as(scores)
        if step.mask is not None:
            scores = scores.masked_fill(~step.mask, -torch.inf)
        if sinks is not None:
            # A sink is one more score in the softmax, of a position whose value is zero.
            sink = sinks.to(scores.dtype).view(count, groups, -1, 1)
            scores = torch.cat([scores, sink], dim=-1)
        shares = torch.softmax(scores, dim=-1)[..., : step.span]
        return (shares @ values).reshape(count, -1)

    def _distances(self, step: Step) -> Tensor:
        """Return how far back the position at each place is, (rows, 1, span)."""
        back = step.places[:, None, None] - torch.arange(step.span, device=step.places.device)
        return back if self.window is None else back % self.window


class RecurrentSlots:
    """The slots of a recurrent layer: both of its states, in place."""

    def __init__(self) -> None:
        self.conv = self.state = torch.empty(0)

    def admit(self, state: Recurrent, row: int, length: int, start: int, end: int) -> None:
        """Fill the rows from START to END with the state of ROW."""
        self.conv = _rows(self.conv, state.conv, end)
        self.state = _rows(self.state, state.state, end)
        self.conv[start:end], self.state[start:end] = state.conv[row], state.state[row]

    def move(self, source: int, target: int, length: int) -> None:
        """Move the row SOURCE to TARGET."""
        for store in (self.conv, self.state):
            store[target] = store[source]

    def read(self, row: int, length: int) -> Recurrent:
        """Return the state of ROW, which has read LENGTH tokens."""
        return Recurrent(self.conv[row : row + 1], self.state[row : row + 1], length)


class EntrySlots:
    """The slots of a compressor: an entry for each whole window of `rate` tokens."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.entries = torch.empty(0)

    def admit(self, state: Entries, row: int, length: int, start: int, end: int) -> None:
        """Fill the rows from START to END with the entries of the first LENGTH tokens of ROW."""
        whole = state.row(row, length).entries[0]
        count = whole.shape[1]
        self.entries = _room(self.entries, whole, end, count + 1, None)
        self.entries[start:end, :, :count] = whole

    def move(self, source: int, target: int, length: int) -> None:
        """Move the row SOURCE, of LENGTH tokens, to TARGET."""
        count = length // self.rate
        self.entries[target, :, :count] = self.entries[source, :, :count]

    def read(self, row: int, length: int) -> Entries:
        """Return the state of ROW, which has LENGTH tokens."""
        return Entries(self.entries[row : row + 1], self.rate).cut(length)

    def append(self, new: Mapping[int, Tensor], lengths: Sequence[int]) -> Tensor:
        """Write the NEW entry of some rows, which had LENGTHS tokens; return those of all rows.

        Returns:
            (rows, 1, entries of the longest row, width).
        """
        span = (max(lengths) + 1) // self.rate
        self.entries = _room(self.entries, self.entries[0], len(lengths), span, None)
        for row, entry in new.items():
            self.entries[row, 0, lengths[row] // self.rate] = entry
        return self.entries[: len(lengths), :, :span]


def new_slots(state: LayerState) -> Slots | None:
    """Return empty slots for rows of the kind of STATE; None for a layer without a state."""
    if isinstance(state, KeyValues):
        return KeyValueSlots(state.window)
    if isinstance(state, Entries):
        return EntrySlots(state.rate)
    return RecurrentSlots() if isinstance(state, Recurrent) else None


def _room(store: Tensor, like: Tensor, rows: int, positions: int, most: int | None) -> Tensor:
    """Return STORE, or a larger copy of it with room for ROWS and POSITIONS, at MOST so many."""
    heads, _, width = like.shape
    have = (store.shape[0], store.shape[2]) if store.ndim == 4 else (0, 0)
    if rows <= have[0] and positions <= have[1]:
        return store
    more = max(positions + GROWTH, min(2 * have[1], positions + 1024))
    new_positions = more if positions > have[1] else have[1]
    if most is not None:
        new_positions = min(new_positions, most)
    larger = like.new_zeros((_more_rows(rows, have[0]), heads, new_positions, width))
    if store.ndim == 4:
        larger[: have[0], :, : have[1]] = store
    return larger


def _rows(store: Tensor, like: Tensor, rows: int) -> Tensor:
    """Return STORE, or a larger copy of it with room for ROWS."""
    have = store.shape[0] if store.ndim > 1 else 0
    if rows <= have:
        return store
    larger = like.new_zeros((_more_rows(rows, have), *like.shape[1:]))
    larger[:have] = store[:have] if have else 0
    return larger


def _more_rows(rows: int, have: int) -> int:
    return max(rows, min(2 * have, rows + 32)) if rows > have else have
