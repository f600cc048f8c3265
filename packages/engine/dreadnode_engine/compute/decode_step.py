"""One decoding step without the per-layer Python of transformers.

For decoder layers of the Llama kind (Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE) the projections of
queries, keys and values are one matrix product, and those of the MLP's gate too: the weights of
each lie behind one another in memory. Any other architecture, and any whose result differs from
transformers' own when it is loaded, decodes through transformers with the same cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from dreadnode_engine.compute.kv_cache import SlotStep
from dreadnode_engine.compute.mixed_precision import product

Update = Callable[[Tensor, Tensor], Tensor]
"""Adds the adapters' update to a layer's output: (input, output) -> output."""


def fuse_projections(model: nn.Module) -> None:
    """Put the weights of projections with the same input behind one another in memory."""
    for module in model.modules():
        for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Linear) for layer in layers):
                _fuse([layer for layer in layers if isinstance(layer, nn.Linear)])


def _fuse(layers: list[nn.Linear]) -> None:
    whole = torch.cat([layer.weight.data for layer in layers])
    sizes = [layer.out_features for layer in layers]
    for layer, part in zip(layers, torch.split(whole, sizes), strict=True):
        layer.weight.data = part


def _joined(layers: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Return the fused weight and bias of LAYERS, as a view of what `_fuse` made."""
    first = layers[0].weight
    rows = sum(layer.out_features for layer in layers)
    whole = first.as_strided((rows, first.shape[1]), first.stride())
    for layer, part in zip(
        layers, torch.split(whole, [layer.out_features for layer in layers]), strict=True
    ):
        if layer.weight.data_ptr() != part.data_ptr():
            raise ValueError("the weights do not lie behind one another")
    biases = [layer.bias for layer in layers]
    if any(bias is None for bias in biases):
        return whole, None
    return whole, torch.cat([bias for bias in biases if bias is not None])


class FusedProjection:
    """Several linear layers on one input, as one matrix product."""

    def __init__(self, layers: list[nn.Linear], updates: list[Update]) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight, self.bias = _joined(layers)
        self.updates = updates

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the output of each layer for X (rows, in)."""
        whole = product(x, self.weight, self.bias)
        # `torch.split` is a Python function, and this is called four times a layer.
        outputs = whole.split_with_sizes(self.sizes, -1) if len(self.sizes) > 1 else (whole,)
        return [update(x, output) for update, output in zip(self.updates, outputs, strict=True)]


class DecoderLayer:
    """One decoder layer of the Llama kind."""

    def __init__(self, layer: Any, update: Callable[[nn.Module], Update]) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv = FusedProjection(inputs, [update(each) for each in inputs])
        self.output = FusedProjection([attention.o_proj], [update(attention.o_proj)])
        self.norms = _fast(layer.input_layernorm), _fast(layer.post_attention_layernorm)
        self.head_norms: tuple[Any, Any] | None = None
        if getattr(attention, "q_norm", None) is not None:
            self.head_norms = _fast(attention.q_norm), _fast(attention.k_norm)
        self.width = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.mlp = mlp
        self.gate_up: FusedProjection | None = None
        if isinstance(getattr(mlp, "gate_proj", None), nn.Linear):
            inputs = [mlp.gate_proj, mlp.up_proj]
            self.gate_up = FusedProjection(inputs, [update(each) for each in inputs])
            self.down = FusedProjection([mlp.down_proj], [update(mlp.down_proj)])

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, step: SlotStep, index: int) -> Tensor:
        """Return the hidden states after this layer, (rows, width) -> (rows, width)."""
        query, key, value = (
            part.view(len(x), -1, self.width) for part in self.qkv(self.norms[0](x))
        )
        if self.head_norms is not None:
            query, key = self.head_norms[0](query), self.head_norms[1](key)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        attended = step.attend(index, query, key, value, self.scale)
        x = x + self.output(attended)[0]
        normed = self.norms[1](x)
        if self.gate_up is None:
            mixed: Tensor = self.mlp(normed[:, None])
            return x + mixed[:, 0]
        gate, up = self.gate_up(normed)
        return x + self.down(self.mlp.act_fn(gate) * up)[0]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding (Su et al. 2021) to X (rows, heads, width).

    The first half of SIN is negated, so that the halves of X need only be swapped.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _fast(norm: Any) -> Callable[[Tensor], Tensor]:
    """Return NORM, or PyTorch's own RMSNorm where it computes the same in fewer steps."""
    weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.dtype != torch.float32 or eps is None:
        return norm  # type: ignore[no-any-return]
    width = tuple(weight.shape)

    def fast(x: Tensor) -> Tensor:
        return rms_norm(x, width, weight, eps)

    probe = torch.linspace(-3, 5, weight.numel(), device=weight.device).view(1, *width)
    with torch.no_grad():
        same = torch.allclose(fast(probe), norm(probe), rtol=1e-4, atol=1e-6)
    return fast if same else norm


class DecodeStep:
    """A decoder that computes one token of each row.

    Raises:
        AttributeError, ValueError: the architecture is not of the Llama kind.
    """

    def __init__(self, decoder: Any, update: Callable[[nn.Module], Update]) -> None:
        self._embed = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self._layers = [DecoderLayer(layer, update) for layer in decoder.layers]
        self._norm = _fast(decoder.norm)

    def __call__(self, tokens: Tensor, step: SlotStep) -> Tensor:
        """Return the last hidden states of TOKENS, (rows,) -> (rows, width)."""
        x = self._embed(tokens)
        cos, sin = self._rotary(x[None], step.positions[None])
        cos, sin = cos[0, :, None], sin[0, :, None].clone()
        sin[..., : sin.shape[-1] // 2].neg_()
        for index, layer in enumerate(self._layers):
            x = layer(x, cos, sin, step, index)
        return self._norm(x)
