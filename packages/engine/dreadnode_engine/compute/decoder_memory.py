"""What a decoder takes in memory beside its weights, by its settings.

The numbers are estimates from shapes. Those of caches are exact; those of activations are within a
quarter of what was measured.
"""

from typing import Any

import torch

from dreadnode_engine.compute.glm_flash import KIMI_CHUNK
from dreadnode_engine.compute.layer_states import LayerKind, cache_kinds, layer_kinds
from dreadnode_engine.compute.loaded_model import Device
from dreadnode_engine.compute.relative_attention import BLOCK
from dreadnode_engine.compute.training import LOGIT_ROWS

FLOAT = 4
"""Bytes of one trained number: adapters, gradients and moments are always float32."""
FLOAT_PASS, HALF_PASS = (1.25, 1.75, 2), (1.5, 2.0, 7)
"""What a backward pass takes, with activations in float32 and in bfloat16.

Two multiples of what it keeps, without and with experts, and how many copies of the logits of one
slice exist at the same time, gradients included. In bfloat16 PEFT's own layers compute
(`lora_linear.py`), which keep more.
"""
BUFFERS = 64 * 2**20
"""Bytes that matrix products and the allocator take beside activations."""
DELTA_CHUNK = 64
"""Tokens in a chunk of the gated delta rule, as transformers computes it."""


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
    # Kimi delta attention keeps so much more than experts that theirs hardly counts beside it.
    experts = experts and not hasattr(config, "linear_num_heads")
    kept = _kept(config)
    layers = len(layer_kinds(config))
    if device.gradient_checkpointing:
        values = layers * int(config.hidden_size) + max(kept)
    else:
        values = sum(kept)
    plain, routed, copies = FLOAT_PASS if device.activations == torch.float32 else HALF_PASS
    factor = routed if experts else plain
    logits = copies * min(tokens, LOGIT_ROWS) * int(config.vocab_size) * FLOAT
    scores = _block_scores(config, tokens)
    return int((factor * values * tokens + scores) * device.activations.itemsize) + logits + BUFFERS


def _block_scores(config: Any, tokens: int) -> int:
    """Return how many numbers a block of queries takes where scores depend on distances.

    Scores, bias, their sum, shares and two gradients exist at the same time.
    """
    extent = int(getattr(config, "rel_extent", 0))
    return 6 * int(config.num_attention_heads) * min(tokens, BLOCK) * tokens if extent else 0


def _kept(config: Any) -> list[int]:
    """Return how many values of each layer the backward pass keeps per token.

    About five of the hidden width (the inputs of norms and projections), four of the heads (query,
    key, value, output) and four of the MLP (gate, its activation, up, their product). A recurrent
    layer keeps its projections for each head instead, and the scores within a chunk of tokens.
    """
    hidden = int(config.hidden_size)
    # A convolution keeps its inputs in float32, and a block residual what it attends to.
    beside = 4 * hidden if hasattr(config, "number_of_conv_states") else 0
    blocks = int(getattr(config, "n_layers_per_attn_res_block", 0))
    mixers = {
        "full": 4 * _heads_width(config),
        "sliding": 4 * _heads_width(config, LayerKind("sliding")),
        "latent": 6 * _heads_width(config),
        "recurrent": _kept_by_recurrence(config),
    }
    mlps = _kinds_of_mlp(config)
    compressors = _compressors(config, cached=False)
    kept = []
    for index, (kind, mlp) in enumerate(zip(layer_kinds(config), mlps, strict=True)):
        values = 3 * hidden + mixers[kind.name] + beside if kind.name != "none" else 0
        values += _kept_by_streams(config)
        if compressors:
            values += compressors[index]
        if blocks:
            values += 6 * hidden * (index // blocks + 2)
        if mlp == "moe":
            chosen = int(config.num_experts_per_tok)
            inner = int(getattr(config, "moe_intermediate_size", None) or config.intermediate_size)
            values += 2 * (1 + chosen) * hidden + 4 * chosen * inner
        elif mlp == "mlp":
            values += 2 * hidden + 4 * int(config.intermediate_size)
        kept.append(values)
    return kept


def _kept_by_streams(config: Any) -> int:
    """Return the values per token that the two hyper-connections of a layer keep; 0 without them.

    Each keeps all streams of hidden states, and the matrix that mixes them at each of the steps
    that normalize its rows and columns.
    """
    streams = int(getattr(config, "hc_mult", None) or 0)
    steps = 2 * int(getattr(config, "hc_sinkhorn_iters", None) or 0)
    return 2 * streams * (int(config.hidden_size) + steps * (streams + 1))


def _kinds_of_mlp(config: Any) -> list[str]:
    """Return `moe`, `mlp` or an empty string for each layer."""
    types = list(getattr(config, "layer_types", None) or [""] * int(config.num_hidden_layers))
    if "mlp" in types or "moe" in types:
        return [name if name in ("mlp", "moe") else "" for name in types]
    if sparse := getattr(config, "mlp_layer_types", None):
        return ["mlp" if name == "dense" else "moe" for name in sparse]
    dense = int(getattr(config, "first_k_dense_replace", None) or 0)
    routed = bool(getattr(config, "num_experts_per_tok", None))
    return ["moe" if routed and index >= dense else "mlp" for index in range(len(types))]


def _heads_width(config: Any, kind: LayerKind | None = None) -> int:
    """Return the width of all heads together, in a layer of KIND."""
    if kind is not None and kind.name == "sliding" and hasattr(config, "swa_head_dim"):
        return int(config.swa_num_attention_heads) * int(config.swa_head_dim)
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
    if hasattr(config, "linear_num_heads"):
        width = int(config.linear_head_dim)
        values = width * (4 * KIMI_CHUNK + 11) + width**2 // KIMI_CHUNK + 6 * KIMI_CHUNK
        return int(config.linear_num_heads) * values
    heads = int(getattr(config, "linear_num_value_heads", 0))
    widths = 8 * (int(getattr(config, "linear_key_head_dim", 0)))
    widths += 6 * int(getattr(config, "linear_value_head_dim", 0))
    return heads * (widths + 6 * DELTA_CHUNK)


def cache_bytes(config: Any, device: Device, positions: int) -> int:
    """Return what the cache of POSITIONS tokens of a decoder with CONFIG takes."""
    indexers = sum(kind.name == "index" for kind in cache_kinds(config))
    # An indexer of pools keeps a gate beside each key.
    kept = 2 if hasattr(config, "index_kpool") else 1
    index = kept * indexers * int(getattr(config, "index_head_dim", 0))
    # Short sequences fill no window, so each position counts in every layer with attention.
    values = sum(_cached(config, kind) for kind in layer_kinds(config))
    values += sum(_compressors(config, cached=True))
    return positions * (values + index) * device.activations.itemsize


def _compressors(config: Any, *, cached: bool) -> list[int]:
    """Return how many numbers per token compressors make in each layer that has them.

    Two projections have the width of an entry, or twice as much where windows overlap. A prompt
    keeps them as a whole, and an entry of each window. A backward pass keeps about five of them.
    """
    found = []
    rates = getattr(config, "compress_rates", None) or {}
    for name in config.layer_types if rates else []:
        if name not in rates:
            found.append(0)
            continue
        overlap = name == "compressed_sparse_attention"
        entry = int(config.head_dim)
        index = int(config.index_head_dim) if overlap else 0
        if cached:
            entry += index
            found.append(2 * (1 + overlap) * entry + -(-entry // rates[name]))
        else:
            found.append(5 * (1 + overlap) * entry)
    return found


def _cached(config: Any, kind: LayerKind) -> int:
    """Return how many numbers of one position a layer of KIND caches."""
    if kind.name == "latent":
        return int(config.kv_lora_rank) + int(config.qk_rope_head_dim)
    if kind.name not in ("full", "sliding"):
        return 0
    if kind.name == "sliding" and hasattr(config, "swa_head_dim"):
        return 2 * int(config.swa_num_key_value_heads) * int(config.swa_head_dim)
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    if hasattr(config, "compress_rates"):
        return int(config.head_dim)
    return 2 * _heads_width(config) // heads * groups


def state_bytes(config: Any) -> int:
    """Return what the recurrent states of one sequence of a decoder with CONFIG take."""
    if hasattr(config, "number_of_conv_states"):
        # Keys, values, and the outputs of attention and MLP.
        kinds = layer_kinds(config)
        widths = sum(_cached(config, kind) + 2 * int(config.hidden_size) for kind in kinds)
        return FLOAT * widths * int(config.conv_kernel_size)
    layers = sum(kind.name == "recurrent" for kind in layer_kinds(config))
    if not layers:
        return 0
    if hasattr(config, "mamba_num_heads"):
        inner = int(config.mamba_num_heads) * int(config.mamba_head_dim)
        conv = (inner + 2 * int(config.n_groups) * int(config.ssm_state_size)) * int(
            config.conv_kernel
        )
        return FLOAT * layers * (conv + inner * int(config.ssm_state_size))
    if hasattr(config, "linear_num_heads"):
        inner = int(config.linear_num_heads) * int(config.linear_head_dim)
        kept = 3 * int(config.linear_conv_kernel_dim) + int(config.linear_head_dim)
        return FLOAT * layers * inner * kept
    keys, values = int(config.linear_key_head_dim), int(config.linear_value_head_dim)
    groups, heads = int(config.linear_num_key_heads), int(config.linear_num_value_heads)
    conv = (2 * groups * keys + heads * values) * int(config.linear_conv_kernel_dim)
    return FLOAT * layers * (conv + heads * keys * values)
