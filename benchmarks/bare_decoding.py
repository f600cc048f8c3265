"""A bare decoding loop for Llama-like models: the least that sampling one sequence takes.

It has a static key-value cache, fused projections, no adapters and no requests. The engine is
measured against it in `bench_engine.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


class BareDecoding:
    """One sequence of at most LENGTH tokens on the weights of MODEL, in their data types."""

    def __init__(self, model: Any, length: int) -> None:
        config = model.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embed, self.head = model.model.embed_tokens.weight, model.lm_head.weight
        self.norm = model.model.norm.weight
        self.layers = [
            (
                layer.input_layernorm.weight,
                torch.cat(
                    [getattr(layer.self_attn, f"{name}_proj").weight for name in ("q", "k", "v")]
                ),
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]),
                layer.mlp.down_proj.weight,
            )
            for layer in model.model.layers
        ]
        self.keys = torch.zeros(len(self.layers), 1, self.groups, length, self.width)
        self.values = torch.zeros_like(self.keys)
        steps = torch.arange(0, self.width, 2) / self.width
        rates = config.rope_parameters["rope_theta"] ** -steps
        angles = torch.outer(torch.arange(length).float(), rates).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    @torch.no_grad()
    def sample(self, prompt: np.ndarray[Any, Any], new: int) -> int:
        """Sample NEW tokens after PROMPT; return their number."""
        ids, position = torch.from_numpy(prompt), 0
        for _ in range(new):
            logprobs = torch.log_softmax(self._logits(ids, position), -1)
            position += len(ids)
            ids = torch.multinomial(logprobs.exp(), 1)[0]
            logprobs[0, ids].item()
        return new

    def _logits(self, ids: Tensor, start: int) -> Tensor:
        count, end = len(ids), start + len(ids)
        cos, sin = self.cos[start:end], self.sin[start:end]
        sizes = [self.heads * self.width, self.groups * self.width, self.groups * self.width]
        x = self.embed[ids]
        for index, (before, qkv, out, after, gate_up, down) in enumerate(self.layers):
            q, k, v = (
                part.view(count, -1, self.width).transpose(0, 1)
                for part in _product(self._norm(x, before), qkv).split(sizes, -1)
            )
            self.keys[index, 0, :, start:end] = _rotate(k, cos, sin)
            self.values[index, 0, :, start:end] = v
            y = F.scaled_dot_product_attention(
                _rotate(q, cos, sin)[None],
                self.keys[index, :, :, :end],
                self.values[index, :, :, :end],
                is_causal=count > 1,
                enable_gqa=True,
            )
            x = x + _product(y[0].transpose(0, 1).reshape(count, -1), out)
            gate, up = _product(self._norm(x, after), gate_up).chunk(2, -1)
            x = x + _product(F.silu(gate) * up, down)
        return F.linear(self._norm(x[-1:], self.norm), self.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.to(weight.dtype), weight).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
