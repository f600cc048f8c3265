"""The layers of Inkling and Inkling 2, so that they take packed sequences and our decoding step.

Their attention adds scores by distance (`relative_attention.py`), and four short convolutions per
layer mix each token with the few before it. In caches each convolution is a layer of its own, after
the layers of the decoder.

The modules keep their class's weights and names; only their class is replaced by a subclass of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.inkling.modeling_inkling import (
    InklingAttention,
    InklingShortConvolution,
    InklingTextModel,
)
from transformers.models.inkling2.modeling_inkling2 import (
    Inkling2DynamicShortConvolution,
    Inkling2RelativeLogits,
    Inkling2ShortConvolution,
    Inkling2TextModel,
)

from dreadnode_engine.compute.attention import attend
from dreadnode_engine.compute.relative_attention import RelativeBias
from dreadnode_engine.compute.step_cache import StepCache


def adopt_inkling(model: Any) -> None:
    """Replace the classes of an Inkling MODEL, and number its convolutions in caches."""
    for module in model.modules():
        adopted = _ADOPTED.get(type(module))
        if adopted is None:
            continue
        if hasattr(module, "conv_idx"):
            layers, beside = model.config.num_hidden_layers, model.config.number_of_conv_states
            module.layer_idx = layers + beside * module.layer_idx + module.conv_idx
            module.conv_idx = 0
        module.__class__ = adopted


def _decoder(original: Any) -> type[nn.Module]:
    """Return a subclass of ORIGINAL, a text model, that tells layers where sequences start."""

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: object = None,
        position_ids: Tensor | None = None,
        sequence_lengths: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        # Attention knows from distances what it reads, and convolutions get no other argument.
        masks = {"full_attention": None, "sliding_attention": None}
        return original.forward(
            self,
            input_ids,
            attention_mask={**masks, "linear_attention": sequence_lengths},
            position_ids=position_ids,
            positions=position_ids,
            sequence_lengths=sequence_lengths,
            **kwargs,
        )

    return type(original.__name__, (original,), {"forward": forward})


def _convolution(original: Any) -> type[nn.Module]:
    """Return a subclass of ORIGINAL, a short convolution, that takes packed sequences."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        *others: Tensor,
        past_key_values: Any = None,
        conv_mask: Sequence[int] | None = None,
    ) -> Tensor:
        if conv_mask is None:
            found: Tensor = original.forward(
                self, hidden_states, *others, past_key_values=past_key_values
            )
            return found
        # The lengths of sequences: no token mixes with one of another sequence.
        parts = [torch.split(t, list(conv_mask), dim=1) for t in (hidden_states, *others)]
        mixed = [original.forward(self, *part) for part in zip(*parts, strict=True)]
        return torch.cat(mixed, dim=1)

    return type(original.__name__, (original,), {"forward": forward})


class _Attention(InklingAttention):  # type: ignore[misc]
    """Attention of Inkling with the positions of each row, where transformers counts its own."""

    def forward(
        self,
        hidden_states: Tensor,
        positions: Tensor,
        attention_mask: None = None,
        conv_mask: Sequence[int] | None = None,
        past_key_values: Any = None,
        *,
        step_cache: StepCache | None = None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, None]:
        """Attend for HIDDEN_STATES (rows, length, width) at POSITIONS (rows, length)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        mixing = {"past_key_values": past_key_values, "conv_mask": conv_mask}
        key = self.k_sconv(self.k_proj(hidden_states), **mixing).view(shape)
        value = self.v_sconv(self.v_proj(hidden_states), **mixing).view(shape).transpose(1, 2)
        query = self.q_norm(self.q_proj(hidden_states).view(shape))
        states = self.r_proj(hidden_states).view(*shape[:-2], self.num_heads, -1)
        floor = self.config.log_scaling_n_floor
        if floor is not None and not self.is_sliding:
            # Far positions have larger scores: 1 + alpha log(n / floor) times.
            far = torch.log(((positions + 1).float() / floor).clamp(min=1.0))
            factor = (1.0 + self.config.log_scaling_alpha * far)[..., None, None]
            query, states = (query * factor).to(query.dtype), (states * factor).to(states.dtype)
        key = self.k_norm(key).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        output, _ = attend(
            self,
            query.transpose(1, 2),
            key,
            value,
            None,
            scaling=self.scaling,
            step_cache=step_cache,
            sequence_lengths=sequence_lengths,
            position_bias=RelativeBias(states.transpose(1, 2), self.rel_logits_proj.proj),
        )
        return self.o_proj(output.flatten(2)), None


class _RelativeLogits(Inkling2RelativeLogits):  # type: ignore[misc]
    """The bias of Inkling 2, not yet computed for all pairs of positions."""

    def forward(self, relative_states: Tensor, *_: Tensor) -> RelativeBias:
        """Return the bias of RELATIVE_STATES (rows, length, heads, inner)."""
        return RelativeBias(relative_states.transpose(1, 2), self.proj)


_ADOPTED: Mapping[type[nn.Module], type[nn.Module]] = {
    InklingAttention: _Attention,
    Inkling2RelativeLogits: _RelativeLogits,
    **{each: _decoder(each) for each in (InklingTextModel, Inkling2TextModel)},
    **{
        each: _convolution(each)
        for each in (
            InklingShortConvolution,
            Inkling2ShortConvolution,
            Inkling2DynamicShortConvolution,
        )
    },
}
