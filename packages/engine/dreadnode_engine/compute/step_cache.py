"""The cache that transformers' own layers see during a decoding step: a view of our slots.

It has those methods of transformers' `Cache` that layers call. Full and sliding attention get only
the newest keys: `attention.py` appends and reads them. Latent attention and indexers compute with
all positions, so they get them; recurrent layers get their states.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreadnode_engine.compute.kv_cache import SlotStep
from dreadnode_engine.compute.layer_states import LayerKind


class StepCache:
    """The slots of a step, for layers of KINDS.

    `mask` says which positions latent attention may read, (rows, 1, 1, positions).
    """

    def __init__(self, step: SlotStep, kinds: Sequence[LayerKind]) -> None:
        self.step = step
        self.mask: Tensor | None = None
        self._kinds = kinds
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Take KEY and VALUE (rows, groups, 1, width); return what attention of LAYER gets."""
        if self._kinds[layer].name not in ("latent", "index"):
            return key, value
        keys, values, self.mask = self.step.merged(layer, key[:, :, 0], value[:, :, 0])
        return keys, values

    def get_conv_state(self, layer: int, state_idx: int = 0) -> Tensor:
        """Return the convolution's states of LAYER, (rows, ...); it is changed in place."""
        return self._states(layer)[0]

    def update_conv_state(self, states: Tensor, layer: int, **_: Any) -> Tensor:
        """Append STATES (rows, width, 1) to the convolution's of LAYER; return both."""
        kept = self.get_conv_state(layer)
        whole = torch.cat([kept, states], dim=-1)
        kept.copy_(whole[..., 1:])
        return whole

    def get_recurrent_state(self, layer: int, state_idx: int = 0) -> Tensor:
        """Return the recurrent states of LAYER, (rows, ...); it may be changed in place."""
        return self._states(layer)[1]

    def update_recurrent_state(self, state: Tensor, layer_idx: int, **_: Any) -> None:
        """Replace the recurrent states of a layer."""
        self._states(layer_idx)[1].copy_(state)

    def is_recording_past(self, layer: int) -> bool:
        """Whether states of earlier positions are kept."""
        return False

    def get_seq_length(self, layer: int = 0) -> int:
        """Return a length. It is not used: positions and masks are given."""
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, length: int, layer: int) -> tuple[int, int]:
        """Return how many positions are read. It is not used, as `get_seq_length`."""
        return length, 0

    def finish(self) -> None:
        """Write the states of recurrent layers back to their slots."""
        if len(self.step.counts) == 1:
            return  # They are views.
        for layer, (conv, state) in self._gathered.items():
            parts = zip(
                self.step.recurrent(layer),
                torch.split(conv, self.step.counts),
                torch.split(state, self.step.counts),
                strict=True,
            )
            for slots, conv_part, state_part in parts:
                slots.conv[: len(conv_part)] = conv_part
                slots.state[: len(state_part)] = state_part

    def _states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return both states of LAYER for all rows, gathered once in a step."""
        if layer not in self._gathered:
            parts = [
                (slots.conv[:count], slots.state[:count])
                for slots, count in zip(self.step.recurrent(layer), self.step.counts, strict=True)
            ]
            convs, states = zip(*parts, strict=True)
            if len(parts) == 1:
                self._gathered[layer] = parts[0]
            else:
                self._gathered[layer] = torch.cat(convs), torch.cat(states)
        return self._gathered[layer]
