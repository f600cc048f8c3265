"""GLM 5.3 Flash (`glm5_next`): its text tower, for packed sequences and our decoding step.

transformers has a class for the whole vision model only. The tower is built here under the names
that it has there, so that PEFT and servers find the layers of an adapter. Three layers of four have
Kimi delta attention (Kimi Linear, 2025), which `recurrent.py` adopts. The others have latent
attention without positions to the pools that an indexer selects: a pool is `index_kpool` positions
in a row, and its key is their weighted mean. Positions after the last whole pool are always read.

The modules keep their class's weights and names; only their class is replaced by a subclass of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.glm5_next.configuration_glm5_next import Glm5NextTextConfig
from transformers.models.glm5_next.modeling_glm5_next import (
    Glm5NextPreTrainedModel,
    Glm5NextTextAttention,
    Glm5NextTextIndexer,
    Glm5NextTextModel,
)

from dreadnode_engine.compute.indexer import Selection, best_keys
from dreadnode_engine.compute.step_cache import StepCache
from dreadnode_engine.errors import OperationFailed

KIMI_CHUNK = 16
"""Tokens that Kimi delta attention computes together: its memory grows with them, and transformers'
64 take four times as much."""


class _Towers(nn.Module):
    """The place of the language model in the vision model."""

    def __init__(self, config: Glm5NextTextConfig) -> None:
        super().__init__()
        self.language_model = Glm5NextTextModel(config)


class Glm5NextForCausalLM(Glm5NextPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The text tower with its last layer."""

    config: Glm5NextTextConfig
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Glm5NextTextConfig) -> None:
        if config.index_kpool > 1 and not config.index_kpool_always_select_tail:
            raise OperationFailed(
                "its indexer selects whole pools only (`index_kpool_always_select_tail` is false), "
                "so its first tokens would read nothing"
            )
        super().__init__(config)
        self.model = _Towers(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> Any:
        """Return the language model."""
        return self.model.language_model

    def get_input_embeddings(self) -> Any:
        """Return the embeddings of tokens."""
        return self.model.language_model.embed_tokens

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> CausalLMOutputWithPast:
        """Return the logits of INPUT_IDS (rows, length)."""
        output = self.model.language_model(input_ids=input_ids, **kwargs)
        logits = self.lm_head(output.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)


def adopt_glm_flash(model: nn.Module) -> None:
    """Replace the classes of a GLM 5.3 Flash MODEL, and number its indexers in caches."""
    indexers = 0
    for module in model.modules():
        if type(module) is Glm5NextTextIndexer:
            module.__class__ = PooledIndexer
            module.cache_layer = model.config.num_hidden_layers + indexers  # type: ignore[union-attr,operator,assignment]
            indexers += 1
        elif type(module) is Glm5NextTextAttention:
            module.__class__ = _Attention
        elif type(module) is Glm5NextTextModel:
            module.__class__ = _Decoder


@dataclass(frozen=True)
class Readable:
    """What queries may read.

    Attributes:
        mask: (rows, 1, queries, positions); None is causal.
        lengths: of the sequences that are packed into the only row; each reads itself.
    """

    mask: Tensor | None
    lengths: Sequence[int] | None


class _Decoder(Glm5NextTextModel):  # type: ignore[misc]
    """The language model, which tells indexers where packed sequences start."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_lengths: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the hidden states of INPUT_IDS (rows, length), which has no padding."""
        readable = Readable(attention_mask, sequence_lengths)
        return super().forward(
            input_ids,
            attention_mask={"indexed_attention": readable, "linear_attention": None},
            sequence_lengths=sequence_lengths,
            chunk_size=KIMI_CHUNK,
            **kwargs,
        )


class _Attention(Glm5NextTextAttention):  # type: ignore[misc]
    """Attention that leaves the mask to `attention.py`."""

    def build_attention_mask_from_topk(self, topk_indices: Selection, **_: Any) -> Selection:
        """Return what the indexer selected."""
        return topk_indices


class PooledIndexer(Glm5NextTextIndexer):  # type: ignore[misc]
    """An indexer of pools for packed sequences, and for our decoding step."""

    @torch.no_grad()
    def forward(
        self,
        hidden_states: Tensor,
        q_resid: Tensor,
        attention_mask: Readable,
        past_key_values: Any = None,
    ) -> Selection:
        """Select positions for HIDDEN_STATES (rows, length, width).

        Args:
            hidden_states: the inputs of the attention.
            q_resid: what its queries are projected from, (rows, length, rank).
            attention_mask: what each query may read.
            past_key_values: the cache with the keys and gates of earlier positions.
        """
        rows, length, _ = hidden_states.shape
        query = self.wq_b(q_resid).view(rows, length, self.n_heads, self.head_dim)
        key = self.k_norm(self.wk(hidden_states))
        gate = linear(hidden_states, self.index_kpool_compress_gate)
        weights = self.weights_proj(hidden_states.to(self.weights_proj.weight.dtype)).float()
        weights = weights * (self.softmax_scale * self.n_heads**-0.5)
        if past_key_values is None:
            lengths = list(attention_mask.lengths or [length])
            parts = [torch.split(t, lengths, dim=1) for t in (query, weights, key, gate)]
            found = [self._select(q, w, k, g, None) for q, w, k, g in zip(*parts, strict=True)]
            return Selection(found)
        keys, gates = past_key_values.update(key[:, None], gate[:, None], self.cache_layer)
        mask = attention_mask.mask
        if isinstance(past_key_values, StepCache) and past_key_values.mask is not None:
            mask = past_key_values.mask
        readable = None if mask is None else mask[:, 0]
        return Selection([self._select(query, weights, keys[:, 0], gates[:, 0], readable)])

    def _select(
        self, query: Tensor, weights: Tensor, keys: Tensor, gates: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        """Return what each query may read, (rows, 1, length, positions); None is causal.

        Args:
            query: (rows, length, heads, width).
            weights: of the heads, (rows, length, heads).
            keys: (rows, positions, width).
            gates: the weights of positions in their pool, before the softmax, as `keys`.
            mask: what each query may read, (rows, length, positions); None is causal.
        """
        size, positions = self.index_kpool, keys.shape[1]
        pools, wanted = positions // size, self.index_topk // size
        if pools <= wanted:
            return None if mask is None else mask[:, None]
        places = torch.arange(positions, device=keys.device)
        if mask is None:
            mask = (places <= places[:, None])[None]
        # A pool can be selected by queries that may read its last position.
        whole = mask[..., size - 1 :: size]
        chosen: Tensor = best_keys(query, self._pooled(keys, gates), weights, whole, wanted)
        chosen = pad(chosen.repeat_interleave(size, dim=-1), (0, positions - pools * size))
        seen = mask.sum(-1, keepdim=True)
        # Of a pool that is not whole yet, everything is read.
        chosen = (chosen | (places >= seen - seen % size)) & mask
        return chosen[:, None]

    def _pooled(self, keys: Tensor, gates: Tensor) -> Tensor:
        """Return the keys of whole pools, (rows, pools, width)."""
        pools, size = keys.shape[1] // self.index_kpool, self.index_kpool
        shape = (len(keys), pools, size, -1)
        keys, gates = (t[:, : pools * size].reshape(shape) for t in (keys, gates))
        shares = torch.softmax(gates.float() + self.index_kpool_compress_ape.float(), dim=2)
        return (shares.to(keys.dtype) * keys).sum(2)
