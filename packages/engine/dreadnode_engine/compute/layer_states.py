"""What a layer keeps of the tokens it has read: the kinds, and the states of computed prompts.

Attention keeps keys and values of positions, all of them or those of a window; latent attention
(DeepSeek V2, 2024) keeps one compressed vector per position instead. A recurrent layer (gated
delta rule, Mamba-2) keeps two tensors of a fixed size, which stand for all tokens before one
position and for no fewer. An indexer (GLM 5) keeps a key per position, as a layer of its own, and
a short convolution (Inkling) its last inputs, as a recurrent layer whose second tensor is empty. A
compressor (DeepSeek V4) keeps an entry per window of positions, and the projections of the last
positions, as two layers of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from torch import Tensor

Name = Literal["full", "sliding", "latent", "recurrent", "index", "tail", "entries", "none"]


@dataclass(frozen=True)
class LayerKind:
    """The kind of one layer.

    Attributes:
        name: of the kind.
        window: how many positions sliding attention reads, or the next entry is made from.
        rate: positions of one entry.
    """

    name: Name
    window: int | None = None
    rate: int = 1


_NAMES: dict[str, Name] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "hybrid": "full",
    "hybrid_sliding": "sliding",
    "compressed_sparse_attention": "sliding",
    "heavily_compressed_attention": "sliding",
    "linear_attention": "recurrent",
    "moe": "none",
    "mlp": "none",
}
"""Our names of the layer types of transformers; the last two have no state, and hybrid ones
convolutions beside their attention."""


def layer_kinds(config: Any) -> list[LayerKind]:
    """Return the kind of each layer of the decoder that CONFIG, of transformers, describes."""
    config = config.get_text_config(decoder=True)
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if getattr(config, "kv_lora_rank", None):
        return [LayerKind("recurrent" if t == "linear_attention" else "latent") for t in types]
    window = getattr(config, "sliding_window", None)
    names = [_NAMES[name] for name in types]
    return [LayerKind(name, window if name == "sliding" else None) for name in names]


def cache_kinds(config: Any) -> list[LayerKind]:
    """Return the kinds of `layer_kinds`, and after them those of what layers keep beside."""
    decoder = config.get_text_config(decoder=True)
    kinds = layer_kinds(config)
    types = getattr(decoder, "indexer_types", None) or []
    convolutions = len(kinds) * int(getattr(decoder, "number_of_conv_states", 0))
    # GLM 5.3 Flash names a type for its recurrent layers too, which have no indexer.
    indexers = [
        LayerKind("index")
        for kind, name in zip(kinds, types, strict=False)
        if name == "full" and kind.name != "recurrent"
    ]
    beside = [*indexers, *[LayerKind("recurrent")] * convolutions]
    return [*kinds, *beside, *_compressor_kinds(decoder)]


def _compressor_kinds(config: Any) -> list[LayerKind]:
    """Return two kinds for each compressor: the last projections, and the entries."""
    kinds: list[LayerKind] = []
    rates = getattr(config, "compress_rates", None) or {}
    for name in getattr(config, "layer_types", None) or []:
        if name == "heavily_compressed_attention":
            kinds += [LayerKind("tail", rates[name]), LayerKind("entries", rate=rates[name])]
        elif name == "compressed_sparse_attention":
            # Windows overlap with the one before. The indexer has a compressor of its own.
            pair = [LayerKind("tail", 2 * rates[name]), LayerKind("entries", rate=rates[name])]
            kinds += 2 * pair
    return kinds


class KeyValues(NamedTuple):
    """Keys and values of the positions from `first`, (rows, heads, positions, width).

    A layer with a `window` needs only that many positions, the own one included.
    """

    keys: Tensor
    values: Tensor
    first: int = 0
    window: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.keys.nbytes + self.values.nbytes

    def usable(self, length: int) -> int:
        """Return how many of the first LENGTH tokens another sequence can continue from."""
        needed = 0 if self.window is None else max(0, length - self.window + 1)
        return length if self.first <= needed else 0

    def cut(self, length: int) -> Self:
        """Return the states of the first LENGTH tokens, as views."""
        end = length - self.first
        return self._replace(keys=self.keys[:, :, :end], values=self.values[:, :, :end])

    def row(self, row: int, length: int) -> Self:
        """Return the states of the first LENGTH tokens of ROW, as views."""
        one = self._replace(keys=self.keys[row : row + 1], values=self.values[row : row + 1])
        return one.cut(length)

    def copy(self) -> Self:
        """Return a copy."""
        return self._replace(keys=self.keys.clone(), values=self.values.clone())


class Recurrent(NamedTuple):
    """The state after `length` tokens: of the convolution, and the recurrent one, (rows, ...)."""

    conv: Tensor
    state: Tensor
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.conv.nbytes + self.state.nbytes

    def usable(self, length: int) -> int:
        """Return how many of the first LENGTH tokens another sequence can continue from."""
        return self.length if length >= self.length else 0

    def cut(self, length: int) -> Self:
        """Return itself, as a recurrent state has no shorter one inside; LENGTH is its own."""
        return self

    def row(self, row: int, length: int) -> Self:
        """Return the state of ROW."""
        one = self._replace(conv=self.conv[row : row + 1], state=self.state[row : row + 1])
        return one.cut(length)

    def copy(self) -> Self:
        """Return a copy."""
        return self._replace(conv=self.conv.clone(), state=self.state.clone())


class Entries(NamedTuple):
    """Entries of whole windows of `rate` positions, (rows, 1, windows, width)."""

    entries: Tensor
    rate: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.entries.nbytes

    def usable(self, length: int) -> int:
        """Return how many of the first LENGTH tokens another sequence can continue from."""
        return length

    def cut(self, length: int) -> Self:
        """Return the entries of the first LENGTH tokens, as views."""
        return self._replace(entries=self.entries[:, :, : length // self.rate])

    def row(self, row: int, length: int) -> Self:
        """Return the entries of the first LENGTH tokens of ROW, as views."""
        return self._replace(entries=self.entries[row : row + 1]).cut(length)

    def copy(self) -> Self:
        """Return a copy."""
        return self._replace(entries=self.entries.clone())


LayerState = KeyValues | Recurrent | Entries | None
"""The state of one layer; None for a layer that keeps nothing."""
LayerStates = Sequence[LayerState]
"""The state of each layer."""


def usable(states: LayerStates, length: int) -> int:
    """Return how many of the first LENGTH tokens of STATES another sequence can continue from."""
    kept = [state for state in states if state is not None]
    for state in kept:
        length = state.usable(length)
    return length if all(state.usable(length) == length for state in kept) else 0


def cut(states: LayerStates, length: int) -> LayerStates:
    """Return STATES of the first LENGTH tokens."""
    return [None if state is None else state.cut(length) for state in states]


def row_of(states: LayerStates, row: int, length: int) -> LayerStates:
    """Return the STATES of the first LENGTH tokens of ROW, as views."""
    return [None if state is None else state.row(row, length) for state in states]


def size_of(states: LayerStates) -> int:
    """Return the bytes of STATES."""
    return sum(state.nbytes for state in states if state is not None)
