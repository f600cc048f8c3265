"""What a decoder takes in memory beside its weights, by its settings.

The numbers are estimates from shapes. Those of caches are exact; those of activations are within a
quarter of what was measured.
"""

from typing import Any

from dreadnode_engine.compute.layer_states import cache_kinds, layer_kinds
from dreadnode_engine.compute.loaded_model import Device
from dreadnode_engine.compute.training import LOGIT_ROWS

FLOAT = 4
"""Bytes of one trained number: adapters, gradients and moments are always float32."""
ALLOCATED, ALLOCATED_EXPERTS = 1.5, 2.0
"""Memory that a backward pass takes, as a multiple of what it keeps; more with experts."""
BUFFERS = 64 * 2**20
"""Bytes that matrix products and the allocator take beside activations."""
DELTA_CHUNK = 64
"""Tokens in a chunk of the gated delta rule, as transformers computes it."""
ALLOCATED_LOGITS = 7
"""Copies of the logits of one slice that exist at the same time, with their gradients."""


def training_bytes(config: Any, device: Device, tokens: int) -> int:
    """Return the bytes that a backward pass over TOKENS at once may take.

    For each token the backward pass keeps what `_kept` counts. The factors for what the allocator
    and the backward pass add are measured (`test_memory.py`). With gradient checkpointing one
    hidden state per layer is kept, and all values of the one layer that is computed.

    Args:
        config: of the decoder, of transformers.
        device: where it is computed.
        tokens: how many.
    """
    experts = bool(getattr(config, "num_experts_per_tok", None)) and "moe" in _kinds_of_mlp(config)
    kept = _kept(config)
    layers = len(layer_kinds(config))
    if device.gradient_checkpointing:
        values = layers * int(config.hidden_size) + max(kept)
    else:
        values = sum(kept)
    factor = ALLOCATED_EXPERTS if experts else ALLOCATED
    logits = ALLOCATED_LOGITS * min(tokens, LOGIT_ROWS) * int(config.vocab_size) * FLOAT
    return int(factor * values * tokens * device.activations.itemsize) + logits + BUFFERS


def _kept(config: Any) -> list[int]:
    """Return how many values of each layer the backward pass keeps per token.

    About five of the hidden width (the inputs of norms and projections), four of the heads (query,
    key, value, output) and four of the MLP (gate, its activation, up, their product). A recurrent
    layer keeps its projections for each head instead, and the scores within a chunk of tokens.
    """
    hidden = int(config.hidden_size)
    mixers = {
        "full": 4 * _heads_width(config),
        "sliding": 4 * _heads_width(config),
        "latent": 6 * _heads_width(config),
        "recurrent": _kept_by_recurrence(config),
    }
    mlps = _kinds_of_mlp(config)
    kept = []
    for kind, mlp in zip(layer_kinds(config), mlps, strict=True):
        values = 3 * hidden + mixers[kind.name] if kind.name != "none" else 0
        if mlp == "moe":
            chosen = int(config.num_experts_per_tok)
            inner = int(getattr(config, "moe_intermediate_size", None) or config.intermediate_size)
            values += 2 * (1 + chosen) * hidden + 4 * chosen * inner
        elif mlp == "mlp":
            values += 2 * hidden + 4 * int(config.intermediate_size)
        kept.append(values)
    return kept


def _kinds_of_mlp(config: Any) -> list[str]:
    """Return `moe`, `mlp` or an empty string for each layer."""
    types = list(getattr(config, "layer_types", None) or [""] * int(config.num_hidden_layers))
    if "mlp" in types or "moe" in types:
        return [name if name in ("mlp", "moe") else "" for name in types]
    dense = int(getattr(config, "first_k_dense_replace", None) or 0)
    routed = bool(getattr(config, "num_experts_per_tok", None))
    return ["moe" if routed and index >= dense else "mlp" for index in range(len(types))]


def _heads_width(config: Any) -> int:
    """Return the width of all heads together."""
    heads = int(config.num_attention_heads)
    if getattr(config, "kv_lora_rank", None):
        return heads * (int(config.qk_nope_head_dim) + int(config.qk_rope_head_dim))
    return heads * int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)


def _kept_by_recurrence(config: Any) -> int:
    """Return the values per token that a recurrent layer keeps; the factors are measured."""
    if hasattr(config, "mamba_num_heads"):
        heads = int(config.mamba_num_heads)
        widths = 6 * int(config.mamba_head_dim) + 4 * int(config.ssm_state_size)
        return heads * (widths + 4 * int(config.chunk_size))
    heads = int(getattr(config, "linear_num_value_heads", 0))
    widths = 8 * (int(getattr(config, "linear_key_head_dim", 0)))
    widths += 6 * int(getattr(config, "linear_value_head_dim", 0))
    return heads * (widths + 6 * DELTA_CHUNK)


def cache_bytes(config: Any, device: Device, positions: int) -> int:
    """Return what the cache of POSITIONS tokens of a decoder with CONFIG takes."""
    kinds = layer_kinds(config)
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    values = 2 * _heads_width(config) // heads * groups
    if kinds[0].name == "latent":
        values = int(config.kv_lora_rank) + int(config.qk_rope_head_dim)
    indexers = sum(kind.name == "index" for kind in cache_kinds(config))
    index = indexers * int(getattr(config, "index_head_dim", 0))
    # Short sequences fill no window, so each position counts in every layer with attention.
    layers = sum(kind.name in ("full", "sliding", "latent") for kind in kinds)
    return positions * (layers * values + index) * device.activations.itemsize


def state_bytes(config: Any) -> int:
    """Return what the recurrent states of one sequence of a decoder with CONFIG take."""
    layers = sum(kind.name == "recurrent" for kind in layer_kinds(config))
    if not layers:
        return 0
    if hasattr(config, "mamba_num_heads"):
        inner = int(config.mamba_num_heads) * int(config.mamba_head_dim)
        conv = (inner + 2 * int(config.n_groups) * int(config.ssm_state_size)) * int(
            config.conv_kernel
        )
        return FLOAT * layers * (conv + inner * int(config.ssm_state_size))
    keys, values = int(config.linear_key_head_dim), int(config.linear_value_head_dim)
    groups, heads = int(config.linear_num_key_heads), int(config.linear_num_value_heads)
    conv = (2 * groups * keys + heads * values) * int(config.linear_conv_kernel_dim)
    return FLOAT * layers * (conv + heads * keys * values)
