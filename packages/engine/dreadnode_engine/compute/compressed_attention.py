"""Attention to a window and to compressed positions before it (DeepSeek V4, 2026).

A compressor turns each whole window of `rate` tokens into one entry: the sum of the tokens'
vectors, weighted by a softmax of their gates. Each query reads the positions of a sliding window
and the entries of windows that end at or before it: all of them where `rate` is large, those that
an indexer selects where it is small. Small windows overlap: half of each vector goes into the entry
of the token's own window, and the other half into that of the next one.

The modules keep their class's weights and names; only the class of the attention is replaced by a
subclass of it. In caches a compressor is two layers, after the layers of the decoder: the
projections of the tokens that the next entry needs, and the entries. An indexer has its own two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4Attention,
    apply_rotary_pos_emb,
)

from dreadnode_engine.compute.attention import attend
from dreadnode_engine.compute.indexer import best_keys
from dreadnode_engine.compute.kv_cache import SlotStep
from dreadnode_engine.compute.step_cache import StepCache


def adopt_compressed_attention(model: nn.Module) -> None:
    """Replace the class of each attention of MODEL, and number what its compressors cache."""
    number = getattr(model.config, "num_hidden_layers", 0)
    for attention in model.modules():
        if type(attention) is not DeepseekV4Attention:
            continue
        attention.__class__ = CompressedAttention
        count = len(compressors(attention))
        attention.cache_layers = range(number, number + 2 * count, 2)  # type: ignore[assignment]
        number += 2 * count


def compressors(attention: Any) -> list[Any]:
    """Return the compressor of ATTENTION and its indexer, as far as it has them."""
    outer = attention.compressor
    inner = getattr(outer, "indexer", None)
    return [module for module in (outer, inner) if module is not None]


@dataclass(frozen=True)
class Tokens:
    """What an attention projects from tokens.

    Attributes:
        query: (rows, heads, length, width).
        key: key and value in one, (rows, 1, length, width).
        raw: vectors and gates of each compressor, (rows, 1, length, width of both series).
        index_query: of the indexer, (rows, length, heads, width); None without one.
        index_weights: of its heads, (rows, length, heads); None without one.
    """

    query: Tensor
    key: Tensor
    raw: Sequence[tuple[Tensor, Tensor]]
    index_query: Tensor | None
    index_weights: Tensor | None

    def split(self, lengths: list[int]) -> list["Tokens"]:
        """Return the sequences of LENGTHS that follow one another in the only row."""
        queries, keys = (torch.split(t, lengths, dim=2) for t in (self.query, self.key))
        raw = [
            list(zip(*(torch.split(t, lengths, dim=2) for t in pair), strict=True))
            for pair in self.raw
        ]
        none: list[Tensor | None] = [None] * len(lengths)
        index = [
            none if t is None else torch.split(t, lengths, dim=1)
            for t in (self.index_query, self.index_weights)
        ]
        return [
            Tokens(queries[i], keys[i], [pairs[i] for pairs in raw], index[0][i], index[1][i])
            for i in range(len(lengths))
        ]


class CompressedAttention(DeepseekV4Attention):  # type: ignore[misc]
    """An attention for packed sequences, cached prompts and our decoding step."""

    cache_layers: Sequence[int]

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: dict[str, tuple[Tensor, Tensor]],
        position_ids: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        *,
        sequence_lengths: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend with HIDDEN_STATES (rows, length, width).

        Args:
            hidden_states: the inputs.
            position_embeddings: cosine and sine by kind.
            position_ids: not read: positions follow from the cache.
            attention_mask: not read: what is read follows from positions.
            past_key_values: the cache with what earlier tokens left.
            sequence_lengths: of the sequences that are packed into the only row.
        """
        rotation = position_embeddings[self.rope_layer_type]
        tokens = self._project(hidden_states, rotation)
        if past_key_values is None and sequence_lengths is not None:
            parts = tokens.split(list(sequence_lengths))
            attended = torch.cat([self._attend(part, None) for part in parts], dim=1)
        else:
            attended = self._attend(tokens, past_key_values)
        cos, sin = rotation
        # Values have the positions of keys; they become relative to that of the query.
        attended = apply_rotary_pos_emb(attended, cos, -sin, unsqueeze_dim=2)
        grouped = attended.reshape(*hidden_states.shape[:-1], self.config.o_groups, -1)
        return self.o_b_proj(self.o_a_proj(grouped).flatten(2)), None

    def _project(self, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tokens:
        rows, length, _ = hidden.shape
        residual = self.q_a_norm(self.q_a_proj(hidden))
        query = self.q_b_norm(self.q_b_proj(residual).view(rows, length, -1, self.head_dim))
        query = apply_rotary_pos_emb(query.transpose(1, 2), *rotation)
        key = apply_rotary_pos_emb(self.kv_norm(self.kv_proj(hidden))[:, None], *rotation)
        raw, index_query, index_weights = [], None, None
        for module in compressors(self):
            indexer = hasattr(module, "scorer")
            with torch.set_grad_enabled(torch.is_grad_enabled() and not indexer):
                raw.append((module.kv_proj(hidden)[:, None], module.gate_proj(hidden)[:, None]))
                if indexer:
                    index = module.q_b_proj(residual).view(rows, length, -1, module.head_dim)
                    index_query = apply_rotary_pos_emb(index, *rotation, unsqueeze_dim=2)
                    scorer = module.scorer
                    scale = scorer.softmax_scale * scorer.weights_scaling
                    index_weights = scorer.weights_proj(hidden).float() * scale
        return Tokens(query, key, raw, index_query, index_weights)

    def _attend(self, tokens: Tokens, cache: Any) -> Tensor:
        """Return the values that TOKENS read, (rows, length, heads, width)."""
        if isinstance(cache, StepCache):
            keys, mask = self._read_step(tokens, cache.step)
        else:
            keys, mask = self._read(tokens, cache)
        return attend(self, tokens.query, keys, keys, mask, scaling=self.scaling, s_aux=self.sinks)[
            0
        ]

    def _read(self, tokens: Tokens, cache: Any) -> tuple[Tensor, Tensor]:
        """Return the keys of TOKENS and of CACHE, and which each token reads."""
        keys, start = tokens.key, 0
        length = keys.shape[2]
        if cache is not None:
            start = _end(cache.layers[self.layer_idx])
            keys, _ = cache.update(keys, keys[..., :0], self.layer_idx)
        total = start + length
        queries = torch.arange(start, total, device=keys.device)[:, None]
        places = torch.arange(total - keys.shape[2], total, device=keys.device)
        mask = ((places <= queries) & (places > queries - self.sliding_window))[None, None]
        entries = []
        for number, module in enumerate(compressors(self)):
            vectors, gates = tokens.raw[number]
            known = 0
            if cache is not None:
                layer = self.cache_layers[number]
                known = _end(cache.layers[layer + 1])
                vectors, gates = cache.update(vectors, gates, layer)
            new = _compress_from(module, vectors, gates, known, total)
            if cache is not None:
                new, _ = cache.update(new, new[..., :0], layer + 1)
            entries.append(new)
        if entries:
            ended = torch.arange(entries[0].shape[2], device=keys.device)
            readable = (ended < (queries + 1) // self.compressor.compress_rate)[None]
            chosen = self._select(tokens, entries, readable)
            rows = max(len(mask), len(chosen))
            mask = torch.cat(
                [mask.expand(rows, *mask.shape[1:]), chosen.expand(rows, *chosen.shape[1:])], dim=-1
            )
            keys = torch.cat([keys, entries[0]], dim=2)
        return keys, mask

    def _read_step(self, tokens: Tokens, step: SlotStep) -> tuple[Tensor, Tensor]:
        """Append the only token of each row to its slots; return all keys and what it reads."""
        keys, _, mask = step.merged(self.layer_idx, tokens.key[:, :, 0], tokens.key[:, :, 0, :0])
        entries = []
        for number, module in enumerate(compressors(self)):
            vectors, gates = tokens.raw[number]
            layer = self.cache_layers[number]
            vectors, gates, _ = step.merged(layer, vectors[:, :, 0], gates[:, :, 0])
            new = _compress_step(module, vectors, gates, step.lengths)
            entries.append(step.entries(layer + 1, new))
        if entries:
            rate = self.compressor.compress_rate
            count = torch.tensor([(length + 1) // rate for length in step.lengths])
            ended = torch.arange(entries[0].shape[2])
            readable = (ended < count[:, None])[:, None].to(keys.device)
            mask = torch.cat([mask, self._select(tokens, entries, readable)], dim=-1)
            keys = torch.cat([keys, entries[0]], dim=2)
        return keys, mask

    def _select(self, tokens: Tokens, entries: Sequence[Tensor], readable: Tensor) -> Tensor:
        """Return which entries each query reads, (rows, 1, length, entries), of the READABLE."""
        if tokens.index_query is None or tokens.index_weights is None:
            return readable[:, None]
        count = self.compressor.indexer.index_topk
        if entries[1].shape[2] <= count:
            # No query chooses where all entries can be read.
            return readable[:, None]
        with torch.no_grad():
            keys, weights = entries[1][:, 0], tokens.index_weights
            return best_keys(tokens.index_query, keys, weights, readable, count)[:, None]


def _end(layer: Any) -> int:
    """Return how many positions LAYER of a prompt's cache has read."""
    return int(layer.first + layer.get_seq_length())


def _overlaps(module: Any) -> bool:
    """Whether windows of MODULE, a compressor, overlap."""
    return bool(module.kv_proj.out_features == 2 * module.head_dim)


def _compress_from(module: Any, vectors: Tensor, gates: Tensor, known: int, total: int) -> Tensor:
    """Return the entries of whole windows after the KNOWN ones, (rows, 1, entries, width).

    Args:
        module: the compressor.
        vectors: of the last positions before TOTAL, (rows, 1, positions, width of both series).
        gates: as `vectors`.
        known: how many entries there are already.
        total: how many tokens the sequence has.
    """
    rate = module.compress_rate
    first = total - vectors.shape[2]
    begin = known * rate - (rate if _overlaps(module) else 0) - first
    end = max(known, total // rate) * rate - first
    # In front of the first window nothing weighs anything.
    front = max(0, -begin)
    vectors, gates = (t[:, 0, begin + front : end] for t in (vectors, gates))
    vectors = pad(vectors, (0, 0, front, 0))
    gates = pad(gates, (0, 0, front, 0), value=-torch.inf)
    numbers = torch.arange(known, max(known, total // rate), device=vectors.device)
    return _compress(module, vectors, gates, numbers.expand(len(vectors), -1))[:, None]


def _compress_step(
    module: Any, vectors: Tensor, gates: Tensor, lengths: Sequence[int]
) -> dict[int, Tensor]:
    """Return the new entry (width,) of each row whose window ends with its newest token.

    Args:
        module: the compressor.
        vectors: the ring of each row: position `p` is at `p % places`, (rows, 1, places, ...).
        gates: as `vectors`.
        lengths: tokens before the newest one of each row.
    """
    rate = module.compress_rate
    ends = [row for row, length in enumerate(lengths) if (length + 1) % rate == 0]
    if not ends:
        return {}
    device = vectors.device
    span = 2 * rate if _overlaps(module) else rate
    numbers = torch.tensor([lengths[row] // rate for row in ends], device=device)[:, None]
    wanted = (numbers + 1) * rate - span + torch.arange(span, device=device)
    missing = (wanted < 0)[..., None]
    rows = torch.tensor(ends, device=device)[:, None]
    places = wanted.clamp(min=0) % span
    vectors, gates = vectors[rows, 0, places], gates[rows, 0, places]
    vectors, gates = vectors.masked_fill(missing, 0), gates.masked_fill(missing, -torch.inf)
    return dict(zip(ends, _compress(module, vectors, gates, numbers)[:, 0], strict=True))


def _compress(module: Any, vectors: Tensor, gates: Tensor, numbers: Tensor) -> Tensor:
    """Return one entry for each window, (rows, windows, width).

    Args:
        module: the compressor.
        vectors: of all tokens of the windows, (rows, tokens, width of both series); where windows
            overlap, those of the window before the first one too.
        gates: as `vectors`.
        numbers: of the windows in their sequence, (rows, windows).
    """
    rate, width = module.compress_rate, module.head_dim
    count = vectors.shape[1] // rate
    vectors, gates = (t.view(len(t), count, rate, t.shape[-1]) for t in (vectors, gates))
    gates = gates + module.position_bias
    if _overlaps(module):
        # The first series of a window counts in the next entry, the second in its own.
        vectors, gates = (
            torch.cat([t[:, :-1, :, :width], t[:, 1:, :, width:]], dim=2) for t in (vectors, gates)
        )
    shares = gates.softmax(dim=2, dtype=torch.float32).to(vectors.dtype)
    entries = module.kv_norm((vectors * shares).sum(dim=2))
    rotation = module.rotary_emb(
        entries, position_ids=numbers * rate, layer_type=module.rope_layer_type
    )
    return apply_rotary_pos_emb(entries[:, None], *rotation)[:, 0]  # type: ignore[no-any-return]
