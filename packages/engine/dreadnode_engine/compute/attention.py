"""The attention of transformers' layers in this engine: padded, packed, or over a decoding step.

On a CPU, PyTorch's grouped-query attention stores the whole attention matrix. So keys and values
are repeated for each head of their group there, which takes its memory-efficient kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from dreadnode_engine.compute.indexer import Selection
from dreadnode_engine.compute.relative_attention import (
    Queries,
    RelativeBias,
    attend_by_distance,
)
from dreadnode_engine.compute.step_cache import StepCache

ENGINE_ATTENTION = "dreadnode_engine"
"""The name under which transformers finds it."""
SINK_WIDTH = 8
"""Columns that a sink adds to heads; kernels prefer multiples of eight."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Selection | None,
    *,
    scaling: float | None = None,
    step_cache: StepCache | None = None,
    sequence_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    indices: Selection | None = None,
    position_bias: RelativeBias | None = None,
    sinks: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with QUERY (rows, heads, length, width) to KEY and VALUE (rows, groups, ...).

    Args:
        module: the attention layer of transformers.
        query: with positions applied.
        key: with positions applied.
        value: as projected.
        attention_mask: what each query may read, also as `indices`; None is causal.
        scaling: the factor of the scores.
        step_cache: the caches that the only token of each row reads in a decoding step.
        sequence_lengths: of the sequences that are packed into the only row; each reads itself.
        sliding_window: how many positions packed sequences read, the own one included.
        s_aux: the sinks: a score of each head that takes its share of the softmax, (heads,).
        indices: the positions that an indexer selected; None where there is none.
        position_bias: what is added to scores by distance; only causal attention has it.
        sinks: the sinks of each query beside a position bias, (rows, heads, length, 1).

    Returns:
        The attended values (rows, length, heads, width).
    """
    width = query.shape[-1]
    scale = width**-0.5 if scaling is None else scaling
    if position_bias is not None:
        queries = Queries(query, position_bias.states, sinks)
        attended = attend_by_distance(
            *(module, queries, key, value, position_bias.profiles),
            scale=scale,
            step_cache=step_cache,
            lengths=sequence_lengths,
        )
        return attended, None
    if isinstance(attention_mask, Selection):
        indices, attention_mask = attention_mask, None
    selected: Sequence[Tensor | None] = (None,) if indices is None else indices.masks
    if step_cache is not None and step_cache.mask is not None:
        readable = step_cache.mask if selected[0] is None else selected[0]
        return _attend(query, key, value, readable, scale).transpose(1, 2), None
    if step_cache is not None:
        tokens = (query[:, :, 0], key[:, :, 0], value[:, :, 0])
        output = step_cache.step.attend(module.layer_idx, *tokens, scale, _of_rows(s_aux, query))
        return output.view(len(output), 1, -1, value.shape[-1]), None
    if sequence_lengths is None:
        mask = attention_mask if selected[0] is None else selected[0]
        return _attend(query, key, value, mask, scale, s_aux).transpose(1, 2), None
    # Split once, because its backward pass is one concatenation; slices would each fill a tensor.
    parts = [torch.split(t, list(sequence_lengths), dim=2) for t in (query, key, value)]
    masks = selected if indices is not None else [_window_mask(q, sliding_window) for q in parts[0]]
    outputs = [
        _attend(q, k, v, mask, scale, s_aux) for q, k, v, mask in zip(*parts, masks, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _of_rows(sinks: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the SINKS of heads for each row of QUERY."""
    return None if sinks is None else sinks.expand(len(query), -1)


def _window_mask(query: Tensor, window: int | None) -> Tensor | None:
    """Return what each position reads of the WINDOW before it; None is all."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    places = torch.arange(length, device=query.device)
    return (places <= places[:, None]) & (places > places[:, None] - window)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attend with QUERY to KEY and VALUE; a MASK of None is causal."""
    grouped = query.shape[1] != key.shape[1] and query.device.type != "cpu"
    if query.shape[1] != key.shape[1] and not grouped:
        copies = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(copies, dim=1) for t in (key, value))
    width = value.shape[-1]
    if sinks is not None:
        query, key, value, mask = _with_sinks(query, key, value, mask, sinks / scale)
    if value.shape[-1] < key.shape[-1]:
        # The memory-efficient kernels take one width.
        value = pad(value, (0, key.shape[-1] - value.shape[-1]))
    output = scaled_dot_product_attention(
        *(query, key, value),
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] > 1,
        scale=scale,
        enable_gqa=grouped,
    )
    return output[:, :, int(sinks is not None) :, :width]


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Put a position in front whose value is zero and whose score is that of the sinks.

    Queries get a column with the SINKS of their head, and only the new key has a one there. A new
    query in front of the others keeps the causal mask a square one.
    """
    rows, heads, length, _ = query.shape
    column = sinks.to(query.dtype).view(1, heads, 1, 1).expand(rows, heads, length, 1)
    query = pad(torch.cat([query, column], dim=-1), (0, SINK_WIDTH - 1, 1, 0))
    width = key.shape[-1]
    key = pad(key, (0, SINK_WIDTH, 1, 0))
    one = torch.zeros(key.shape[-1], dtype=key.dtype, device=key.device)
    one[width] = 1
    key = torch.cat([one.expand(*key.shape[:2], 1, -1), key[:, :, 1:]], dim=2)
    value = pad(value, (0, 0, 1, 0))
    if mask is not None:
        # The new query reads something, or its softmax would be of nothing.
        mask = pad(mask, (1, 0, 1, 0), value=True)
    return query, key, value, mask


AttentionInterface.register(ENGINE_ATTENTION, attend)
AttentionMaskInterface.register(ENGINE_ATTENTION, sdpa_mask)
