"""Prefix cache: keys and values of prompts that were computed, for requests that begin alike.

The second turn of a chat begins with the first one, and the requests of a group share their prompt.
A prefix is used only by its owner, and only with the weights that computed it.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dreadnode_engine.compute.kv_cache import LayerStates

Scope = tuple[str, int]
"""The owner of a prefix, and the number of the adapter that computed it."""
MIN_TOKENS = 16
"""Shorter prefixes are not worth a prefill of their own."""


@dataclass(eq=False)
class Prefix:
    """Tokens, and keys and values (1, heads, tokens, width) of each layer."""

    scope: Scope
    tokens: NDArray[np.int64]
    states: list[tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        """Bytes in memory."""
        return sum(key.nbytes + value.nbytes for key, value in self.states)

    def common(self, tokens: NDArray[np.int64]) -> int:
        """Return how many of TOKENS, from the first, are the same."""
        length = min(len(tokens), len(self.tokens))
        different = np.flatnonzero(tokens[:length] != self.tokens[:length])
        return int(different[0]) if different.size else length


class PrefixCache:
    """The prefixes that were used last, within a limit of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, Prefix] = OrderedDict()
        self.bytes = 0

    def find(self, scope: Scope, tokens: NDArray[np.int64]) -> tuple[int, LayerStates]:
        """Return how many of TOKENS are cached for SCOPE, and their states.

        The last token is never taken from the cache: its hidden
        state is needed.
        """
        best, length = None, MIN_TOKENS - 1
        for key, entry in self._entries.items():
            if entry.scope == scope and (common := entry.common(tokens[:-1])) > length:
                best, length = key, common
        if best is None:
            return 0, []
        self._entries.move_to_end(best)
        states = self._entries[best].states
        return length, [(k[:, :, :length], v[:, :, :length]) for k, v in states]

    def add(self, scope: Scope, tokens: NDArray[np.int64], states: LayerStates, row: int) -> None:
        """Keep a copy of the states of TOKENS in ROW of STATES, and drop what it extends."""
        if len(tokens) < MIN_TOKENS:
            return
        size = sum(part[row, :, : len(tokens)].nbytes for pair in states for part in pair)
        if size > self._limit:
            return
        for key, entry in list(self._entries.items()):
            if entry.scope == scope:
                common = entry.common(tokens)
                if common == len(tokens):
                    self._entries.move_to_end(key)
                    return
                if common == len(entry.tokens):
                    self._drop(key)
        kept = [
            (k[row : row + 1, :, : len(tokens)].clone(), v[row : row + 1, :, : len(tokens)].clone())
            for k, v in states
        ]
        prefix = Prefix(scope, tokens.copy(), kept)
        self._entries[id(prefix)] = prefix
        self.bytes += prefix.bytes
        while self.bytes > self._limit:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: int) -> None:
        self.bytes -= self._entries.pop(key).bytes
