"""Loaded base models: one copy of the weights, and a wrapper for every LoRA shape in use."""

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dreadnode_engine.compute.adapters import LoraShape, Wrapped
from dreadnode_engine.compute.multi_adapter import MixedNetwork
from dreadnode_engine.compute.network import Network
from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.errors import OperationFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where and in which precision base models live."""

    name: str = "cpu"
    dtype: torch.dtype = torch.float32
    gradient_checkpointing: bool = False


class LoadedBase:
    """A base model in memory."""

    def __init__(self, served: ServedModel, device: Device) -> None:
        started = time.monotonic()
        self.served = served
        model = AutoModelForCausalLM.from_pretrained(
            served.path, dtype=device.dtype, attn_implementation="sdpa", local_files_only=True
        )
        model = model.to(device.name).eval().requires_grad_(False)
        if device.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.tokenizer = AutoTokenizer.from_pretrained(served.path, local_files_only=True)
        self.device = torch.device(device.name)
        self.config = model.config
        self.eos = _eos_ids(model, self.tokenizer)
        self.plain = Network(model)
        self._wrapped: dict[LoraShape, tuple[Wrapped, Network]] = {}
        _check_halves(model, self.plain)
        log.info("loaded %s in %.1f s", served.id, time.monotonic() - started)

    @cached_property
    def mixed(self) -> MixedNetwork:
        """The network that samples: one batch, and in it any adapters on this model."""
        return MixedNetwork(self.plain.causal_lm)

    @property
    def adapter_bytes(self) -> int:
        """What the adapters that samples are drawn with take in memory."""
        return self.mixed.bytes if "mixed" in vars(self) else 0

    def wrapped(self, shape: LoraShape) -> tuple[Wrapped, Network]:
        """Return the wrapper for SHAPE and the network that computes through it."""
        if shape not in self._wrapped:
            wrapper = Wrapped(self.plain.causal_lm, shape)
            self._wrapped[shape] = wrapper, Network(wrapper.causal_lm)
        return self._wrapped[shape]


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return every token that ends a text: the generation settings' and the tokenizer's."""
    named = model.generation_config.eos_token_id
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return frozenset(int(token) for token in ids if token is not None)


@torch.no_grad()
def _check_halves(model: Any, network: Network) -> None:
    """Refuse an architecture that does more to its logits than its last layer does."""
    probe = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    whole = model(input_ids=probe).logits.float()
    halves = network.logits(network.hidden(probe))
    if not torch.allclose(whole, halves, rtol=1e-3, atol=1e-3):
        raise OperationFailed(
            f"{type(model).__name__} transforms its logits in a way that this engine does not know",
            category="server",
        )
