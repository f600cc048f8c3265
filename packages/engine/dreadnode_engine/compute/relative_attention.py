"""Attention whose scores depend on how far back a position is (Inkling), without rotary ones.

Each query has a small vector per head, which mixes learned profiles: one score for each distance
up to an extent, beyond which nothing is added. Scores of all pairs would be too many to keep, so
queries are taken in blocks, and a backward pass computes the scores of each block again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from dreadnode_engine.compute.step_cache import StepCache

BLOCK = 256
"""Queries whose scores are in memory at the same time."""


class RelativeBias(NamedTuple):
    """What is added to the scores of queries.

    Attributes:
        states: (rows, heads, length, inner).
        profiles: (inner, extent).
    """

    states: Tensor
    profiles: Tensor


class Queries(NamedTuple):
    """Queries of some positions, with what only they have.

    Attributes:
        query: (rows, heads, length, width).
        states: of the bias, (rows, heads, length, inner).
        sinks: a score that takes its share of the softmax, (rows, heads, length, 1); None if none.
    """

    query: Tensor
    states: Tensor
    sinks: Tensor | None

    def slice(self, start: int, end: int) -> "Queries":
        """Return the queries of the positions from START to END."""
        query, states = (t[:, :, start:end] for t in (self.query, self.states))
        return Queries(query, states, None if self.sinks is None else self.sinks[:, :, start:end])


def attend_by_distance(
    module: Any,
    queries: Queries,
    key: Tensor,
    value: Tensor,
    profiles: Tensor,
    *,
    scale: float,
    step_cache: "StepCache | None" = None,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """Attend with QUERIES to KEY and VALUE (rows, groups, positions, width), causally.

    Args:
        module: the attention layer, of which the window counts.
        queries: of the last positions, or of packed sequences.
        key: of all positions that may be read.
        value: as `key`.
        profiles: of the bias, (inner, extent).
        scale: the factor of products of queries and keys.
        step_cache: the caches that the only token of each row reads in a decoding step.
        lengths: of the sequences that are packed into the only row; each reads itself.

    Returns:
        (rows, length, heads, width).
    """
    if step_cache is not None:
        newest = (queries.query[:, :, 0], key[:, :, 0], value[:, :, 0])
        sinks = None if queries.sinks is None else queries.sinks[:, :, 0, 0]
        profile = queries.states[:, :, 0] @ profiles
        read = step_cache.step.attend(module.layer_idx, *newest, scale, sinks, profile)
        return read.view(len(read), 1, -1, value.shape[-1])
    window = module.sliding_window
    if lengths is None:
        return _attend(queries, key, value, profiles, scale, window).transpose(1, 2)
    outputs, end = [], 0
    for length in lengths:
        start, end = end, end + length
        one = queries.slice(start, end), key[:, :, start:end], value[:, :, start:end]
        outputs.append(_attend(*one, profiles, scale, window))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _attend(
    queries: Queries,
    key: Tensor,
    value: Tensor,
    profiles: Tensor,
    scale: float,
    window: int | None,
) -> Tensor:
    """Attend with QUERIES of the last positions of KEY and VALUE, in blocks."""
    length, positions = queries.query.shape[2], key.shape[2]
    before = positions - length
    again = length > BLOCK and torch.is_grad_enabled()
    places = torch.arange(positions, device=key.device)
    outputs = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        # Positions before the window of the block's first query are not read.
        low = 0 if window is None else max(0, before + start - window + 1)
        read = slice(low, before + end)
        distance = places[before + start : before + end, None] - places[read]
        block = queries.slice(start, end)
        arguments = (block, key[:, :, read], value[:, :, read], profiles, distance, scale, window)
        outputs.append(
            checkpoint(_attend_block, *arguments, use_reentrant=False)
            if again
            else _attend_block(*arguments)
        )
    return torch.cat(outputs, dim=2)


def _attend_block(
    queries: Queries,
    key: Tensor,
    value: Tensor,
    profiles: Tensor,
    distance: Tensor,
    scale: float,
    window: int | None,
) -> Tensor:
    """Attend with QUERIES to KEY and VALUE, which are DISTANCE (length, positions) back."""
    rows, heads, length, width = queries.query.shape
    groups, positions = key.shape[1:3]
    # The heads of a group share its keys: as positions of one query they need no copies.
    grouped = queries.query.reshape(rows, groups, -1, width)
    scores = (grouped @ key.transpose(-1, -2)).view(rows, heads, length, positions) * scale
    scores = scores + relative_bias(queries.states @ profiles, distance)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    scores = scores.masked_fill(hidden, -torch.inf)
    if queries.sinks is not None:
        # A sink is one more score in the softmax, of a position whose value is zero.
        scores = torch.cat([scores, queries.sinks.to(scores.dtype)], dim=-1)
    shares = torch.softmax(scores.float(), dim=-1)[..., :positions].to(value.dtype)
    attended = shares.reshape(rows, groups, -1, positions) @ value
    return attended.view(rows, heads, length, -1)


def relative_bias(profile: Tensor, distance: Tensor) -> Tensor:
    """Return the score in PROFILE (..., extent) of each DISTANCE (..., positions); else zero."""
    extent = profile.shape[-1]
    index = distance.clamp(0, extent - 1).expand(*profile.shape[:-1], -1)
    return profile.gather(-1, index).masked_fill(distance >= extent, 0)
