"""Attention that selects positions (GLM 5): each query reads the best `index_topk` of those before.

An indexer of a few small heads scores the positions (DeepSeek V3.2, 2025); a layer reads what its
own indexer selects, or what that of an earlier layer did. A sequence of at most `index_topk` tokens
reads everything, so nothing is scored there. Indexers are not trained.

The modules keep their class's weights and names; only their class is replaced by a subclass of it.
In caches the keys of an indexer are a layer of their own, after the layers of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import (
    GlmMoeDsaIndexer,
    apply_rotary_pos_emb_interleave,
)

from dreadnode_engine.compute.step_cache import StepCache

SCORES = 2**25
"""Scores of all heads that are in memory at the same time."""


@dataclass(frozen=True)
class Selection:
    """What queries may read: a mask (rows, 1, queries, positions) for each packed sequence.

    Sequences that are not packed are one entry. None leaves every position that comes before.
    """

    masks: Sequence[Tensor | None]


def adopt_indexers(model: nn.Module) -> None:
    """Replace the class of each indexer of MODEL, and number their keys in caches."""
    layers = getattr(model.config, "num_hidden_layers", 0)
    indexers = [module for module in model.modules() if type(module) is GlmMoeDsaIndexer]
    for number, module in enumerate(indexers):
        module.__class__ = Indexer
        module.cache_layer = layers + number  # type: ignore[assignment]


class Indexer(GlmMoeDsaIndexer):  # type: ignore[misc]
    """An indexer for packed sequences, and for our decoding step."""

    @torch.no_grad()
    def forward(
        self,
        hidden_states: Tensor,
        q_resid: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any = None,
    ) -> Selection:
        """Select positions for HIDDEN_STATES (rows, length, width).

        Args:
            hidden_states: the inputs of the attention.
            q_resid: what its queries are projected from, (rows, length, rank).
            position_embeddings: cosine and sine.
            attention_mask: what each query may read, (rows, length, positions); of packed
                sequences, whose only row has several starts, nothing can be seen in it.
            position_ids: zero where a packed sequence starts.
            past_key_values: the cache with the keys of earlier positions.
        """
        rows, length, _ = hidden_states.shape
        query = self.wq_b(q_resid).view(rows, length, self.n_heads, self.head_dim)
        key = self.k_norm(self.wk(hidden_states))[:, :, None]
        query, key = self._rotate(query, key, position_embeddings)
        weights = self.weights_proj(hidden_states.to(self.weights_proj.weight.dtype)).float()
        weights = weights * (self.softmax_scale * self.n_heads**-0.5)
        if past_key_values is None:
            starts = position_ids[0].eq(0).nonzero().flatten().tolist()
            lengths = [b - a for a, b in zip(starts, [*starts[1:], length], strict=True)]
            parts = [torch.split(t, lengths, dim=1) for t in (query, key[:, :, 0], weights)]
            found = [self._select(q, k, w, None) for q, k, w in zip(*parts, strict=True)]
            return Selection(found)
        empty = key.new_empty(rows, 1, length, 0)
        keys, _ = past_key_values.update(key.transpose(1, 2), empty, self.cache_layer)
        mask = attention_mask
        if isinstance(past_key_values, StepCache) and past_key_values.mask is not None:
            mask = past_key_values.mask[:, 0]
        return Selection([self._select(query, keys[:, 0], weights, mask)])

    def _rotate(
        self, query: Tensor, key: Tensor, embeddings: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Apply rotary positions to the first part of each head of QUERY and KEY."""
        width = self.qk_rope_head_dim
        rotated = apply_rotary_pos_emb_interleave(
            *(query[..., :width], key[..., :width], *embeddings), unsqueeze_dim=2
        )
        pairs = zip(rotated, (query, key), strict=True)
        query, key = (torch.cat([part, whole[..., width:]], dim=-1) for part, whole in pairs)
        return query, key

    def _select(
        self, query: Tensor, keys: Tensor, weights: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        """Return what each query may read of KEYS, (rows, 1, length, positions); None for all.

        Args:
            query: (rows, length, heads, width).
            keys: (rows, positions, width).
            weights: of the heads, (rows, length, heads).
            mask: what each query may read, (rows, length, positions); None is causal.
        """
        positions = keys.shape[1]
        if positions <= self.index_topk:
            return None
        if mask is None:
            places = torch.arange(positions, device=keys.device)
            mask = (places <= places[:, None])[None]
        return best_keys(query, keys, weights, mask, self.index_topk)[:, None]


def best_keys(query: Tensor, keys: Tensor, weights: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return where the COUNT keys with the largest scores are, (rows, length, keys).

    Args:
        query: (rows, length, heads, width).
        keys: (rows, keys, width).
        weights: of the heads, (rows, length, heads).
        mask: which keys each query may choose, (rows, length, keys).
        count: how many it chooses at most.
    """
    rows, length, heads, _ = query.shape
    step = max(1, SCORES // (rows * heads * keys.shape[1]))
    keys = keys.float().transpose(1, 2)[:, None]
    found = []
    for first in range(0, length, step):
        part = slice(first, first + step)
        # The score of a key: sum over heads h of w_h relu(q_h k).
        products = torch.relu(query[:, part].float() @ keys)
        scores = (weights[:, part, None] @ products)[:, :, 0]
        allowed = mask[:, part].expand_as(scores)
        found.append(_largest(scores.masked_fill(~allowed, -torch.inf), count))
    return torch.cat(found, dim=1) & mask


def _largest(scores: Tensor, count: int) -> Tensor:
    """Return where the COUNT largest of SCORES (..., positions) are.

    Of equal scores the first ones are taken, so that the choice does not depend on how many
    positions there are, and neither on a cache nor on other rows.
    """
    least = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    missing = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= missing))
