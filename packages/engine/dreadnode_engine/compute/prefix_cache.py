"""Prefix cache: the states of prompts that were computed, for requests that begin alike.

The second turn of a chat begins with the first one, and the requests of a group share their prompt.
A prefix is used only by its owner, and only with the weights that computed it. Keys and values can
be used up to any position, those of a sliding window only where the window is complete, and
recurrent states only as a whole.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreadnode_engine.compute.layer_states import LayerStates, cut, row_of, size_of, usable

Scope = tuple[str, int]
"""The owner of a prefix, and the number of the adapter that computed it."""
MIN_TOKENS = 16
"""Shorter prefixes are not worth a prefill of their own."""


@dataclass(eq=False)
class Prefix:
    """Tokens, and the states of each layer, (1, ...)."""

    scope: Scope
    tokens: NDArray[np.int64]
    states: LayerStates

    @property
    def bytes(self) -> int:
        """Bytes in memory."""
        return size_of(self.states)

    def common(self, tokens: NDArray[np.int64]) -> int:
        """Return how many of TOKENS, from the first, are the same and can be continued from."""
        length = min(len(tokens), len(self.tokens))
        different = np.flatnonzero(tokens[:length] != self.tokens[:length])
        return usable(self.states, int(different[0]) if different.size else length)


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
        return length, cut(self._entries[best].states, length)

    def add(self, scope: Scope, tokens: NDArray[np.int64], states: LayerStates, row: int) -> None:
        """Keep a copy of the states of TOKENS in ROW of STATES, and drop what it extends."""
        if len(tokens) < MIN_TOKENS:
            return
        mine = row_of(states, row, len(tokens))
        if size_of(mine) > self._limit:
            return
        for key, entry in list(self._entries.items()):
            if entry.scope == scope:
                if entry.common(tokens) == len(tokens):
                    self._entries.move_to_end(key)
                    return
                length = len(entry.tokens)
                # A shorter prefix stays if the new one cannot be used up to its end.
                if np.array_equal(entry.tokens, tokens[:length]) and usable(mine, length):
                    self._drop(key)
        kept = [None if state is None else state.copy() for state in mine]
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
