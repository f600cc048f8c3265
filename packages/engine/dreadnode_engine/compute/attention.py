"""The attention of transformers' layers in this engine: padded, packed, or over a decoding step.

On a CPU, PyTorch's grouped-query attention stores the whole attention matrix. So keys and values
are repeated for each head of their group there, which takes its memory-efficient kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from dreadnode_engine.compute.kv_cache import SlotStep

ENGINE_ATTENTION = "dreadnode_engine"
"""The name under which transformers finds it."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    slot_step: SlotStep | None = None,
    sequence_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with QUERY (rows, heads, length, width) to KEY and VALUE (rows, groups, ...).

    Args:
        module: the attention layer of transformers.
        query: with positions applied.
        key: with positions applied.
        value: as projected.
        attention_mask: what each query may read; None is causal.
        scaling: the factor of the scores.
        slot_step: the decoding step whose caches the only token of each row reads.
        sequence_lengths: of the sequences that are packed into the only row; each reads itself.

    Returns:
        The attended values (rows, length, heads, width).
    """
    width = query.shape[-1]
    scale = width**-0.5 if scaling is None else scaling
    if slot_step is not None:
        tokens = (query[:, :, 0], key[:, :, 0], value[:, :, 0])
        output = slot_step.attend(module.layer_idx, *tokens, scale)
        return output.view(len(output), 1, -1, width), None
    grouped = query.shape[1] != key.shape[1] and query.device.type != "cpu"
    if query.shape[1] != key.shape[1] and not grouped:
        copies = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(copies, dim=1) for t in (key, value))
    if sequence_lengths is None:
        causal = attention_mask is None and query.shape[2] > 1
        output = scaled_dot_product_attention(
            *(query, key, value),
            attn_mask=attention_mask,
            is_causal=causal,
            scale=scale,
            enable_gqa=grouped,
        )
        return output.transpose(1, 2), None
    # Split once, because its backward pass is one concatenation; slices would each fill a tensor.
    parts = [torch.split(t, list(sequence_lengths), dim=2) for t in (query, key, value)]
    outputs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ENGINE_ATTENTION, attend)
AttentionMaskInterface.register(ENGINE_ATTENTION, sdpa_mask)
