"""Recurrent layers of transformers, so that they take packed sequences and our decoding step.

The modules keep their class's weights and names; only their class is replaced by a subclass of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def adopt_recurrent_layers(model: nn.Module) -> None:
    """Replace the class of each recurrent layer of MODEL."""
    classes: dict[type[nn.Module], type[nn.Module]] = {}
    for module in model.modules():
        # Kimi delta attention has its decay in a module of its own.
        decays = hasattr(module, "A_log") or hasattr(module, "forget_gate")
        if isinstance(getattr(module, "conv1d", None), nn.Conv1d) and decays:
            original = type(module)
            module.__class__ = classes.setdefault(original, _adopted(original))


def _adopted(original: Any) -> Any:
    """Return a subclass of ORIGINAL, the class of a recurrent layer of transformers."""
    mamba = original.__name__.endswith("Mamba2Mixer")

    def forward(
        self: Any,
        hidden_states: Tensor,
        *,
        cache_params: Any = None,
        sequence_lengths: Sequence[int] | None = None,
        step_cache: object = None,
        **kwargs: Any,
    ) -> Any:
        single = cache_params is not None and hidden_states.shape[1] == 1
        if mamba and single and cache_params.get_conv_state(self.layer_idx) is not None:
            return mamba_step(self, hidden_states, cache_params)
        if sequence_lengths is None:
            return original.forward(self, hidden_states, cache_params=cache_params, **kwargs)
        # Each sequence starts from an empty state.
        parts = torch.split(hidden_states, list(sequence_lengths), dim=1)
        return torch.cat([original.forward(self, part, **kwargs) for part in parts], dim=1)

    return type(original.__name__, (original,), {"forward": forward})


def mamba_step(mixer: Any, x: Tensor, cache: Any) -> Tensor:
    """Return the output of a Mamba-2 layer (Dao and Gu 2024) for one token per row.

    transformers bounds the time step of whole sequences from below, but not that of single tokens;
    here it is bounded as in training, so that both compute the same.

    Args:
        mixer: the layer.
        x: the hidden states (rows, 1, width).
        cache: has the layer's states, which are changed in place.
    """
    layer, heads, groups = mixer.layer_idx, mixer.num_heads, mixer.n_groups
    conv, state = cache.get_conv_state(layer), cache.get_recurrent_state(layer)
    sizes = [mixer.intermediate_size, mixer.conv_dim, heads]
    gate, mixed, dt = mixer.in_proj(x[:, 0]).split(sizes, dim=-1)
    conv.copy_(torch.cat([conv[..., 1:], mixed[..., None]], dim=-1))
    mixed = (conv * mixer.conv1d.weight[:, 0]).sum(-1)
    if mixer.conv1d.bias is not None:
        mixed = mixed + mixer.conv1d.bias
    sizes = [mixer.intermediate_size, groups * mixer.ssm_state_size, groups * mixer.ssm_state_size]
    value, b, c = mixer.act(mixed).float().split(sizes, dim=-1)
    value = value.view(len(x), heads, -1)
    b, c = (
        part.view(len(x), groups, 1, -1).repeat_interleave(heads // groups, dim=1)
        for part in (b, c)
    )
    dt = softplus(dt + mixer.dt_bias).float().clamp(*mixer.time_step_limit)[..., None]
    decay = torch.exp(-torch.exp(mixer.A_log.float())[:, None] * dt)
    # h = exp(A dt) h + dt x B, (rows, heads, head width, state width); y = C h + D x.
    state.copy_(state * decay[..., None] + (dt * value)[..., None] * b)
    output = (state.float() * c).sum(-1) + mixer.D[:, None] * value
    normed = mixer.norm(output.reshape(len(x), 1, -1), gate[:, None])
    return mixer.out_proj(normed.to(x.dtype))  # type: ignore[no-any-return]
