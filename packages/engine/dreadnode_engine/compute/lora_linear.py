"""A linear layer with a LoRA adapter, as one step of automatic differentiation.

PEFT's layer computes `x @ w.T + (x @ a.T) @ b.T * scale` in six operations, each with a result of
its own and a backward pass of its own. Here scaling and sum are part of the products. The gradient
of `b` is computed transposed, which skinny matrices make several times as fast on a CPU.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from dreadnode_engine.compute.mixed_precision import HalfLinear


def adopt_lora_layers(model: nn.Module) -> None:
    """Let the adapted linear layers of MODEL compute here, for activations in float32."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) in (nn.Linear, HalfLinear):
            module.__class__ = LoraLinear


class LoraLinear(Linear):  # type: ignore[misc]
    """PEFT's adapted linear layer, with one adapter."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output in the data type of X."""
        a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
        if x.dtype != a.dtype:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        base = self.base_layer
        result: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, a, b, self.scaling["default"]
        )
        return result


class _Adapted(torch.autograd.Function):
    """`x @ w.T + bias + (x @ a.T) @ b.T * scale`, where only X, A and B have gradients.

    X and the result are float32 (..., in) and (..., out), A is (rank, in), B is (out, rank); the
    products with W (out, in) are computed in its data type.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.T
        result = linear(rows.to(w.dtype), w, bias).to(x.dtype).addmm_(inner, b.T, alpha=scale)
        ctx.save_for_backward(rows, w, a, b, inner)
        ctx.scale = scale
        return result.view(*x.shape[:-1], w.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, w, a, b, inner = ctx.saved_tensors
        (gradient,) = gradients
        outer = gradient.reshape(-1, gradient.shape[-1])
        inner_gradient = (outer @ b).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (outer.to(w.dtype) @ w).to(rows.dtype).addmm_(inner_gradient, a)
            x_gradient = x_gradient.view(*gradient.shape[:-1], w.shape[1])
        b_gradient = (inner.T @ outer).mul_(ctx.scale).T
        return x_gradient, None, None, inner_gradient.T @ rows, b_gradient, None
