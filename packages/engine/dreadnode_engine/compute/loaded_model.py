"""Base models in memory: one copy of the weights, and a PEFT wrapper for each LoRA shape."""

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from transformers import AutoTokenizer

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.compute.attention import ENGINE_ATTENTION
from dreadnode_engine.compute.compressed_attention import adopt_compressed_attention
from dreadnode_engine.compute.decode_step import fuse_projections
from dreadnode_engine.compute.decoders import load_decoder
from dreadnode_engine.compute.glm_flash import adopt_glm_flash
from dreadnode_engine.compute.indexer import adopt_indexers
from dreadnode_engine.compute.inkling import adopt_inkling
from dreadnode_engine.compute.kv_cache import SlotCache, SlotStep
from dreadnode_engine.compute.lora_linear import adopt_lora_layers
from dreadnode_engine.compute.mixed_precision import choose_dtype, halve_projections
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.network import Network
from dreadnode_engine.compute.prefill import prefill
from dreadnode_engine.compute.prefix_cache import PrefixCache
from dreadnode_engine.compute.probe import check_training
from dreadnode_engine.compute.recurrent import adopt_recurrent_layers
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.settings import MIB, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """The device and data type of base models."""

    name: str = "cpu"
    dtype: torch.dtype = torch.float32
    gradient_checkpointing: bool = False

    @property
    def mixed(self) -> bool:
        """Whether only the projections are in bfloat16, and activations in float32."""
        return self.name == "cpu" and self.dtype == torch.bfloat16

    @property
    def activations(self) -> torch.dtype:
        """The data type of activations and of the key-value cache."""
        return torch.float32 if self.mixed else self.dtype

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the device that SETTINGS name."""
        dtype: str = settings.dtype or ("bfloat16" if settings.device == "cuda" else "float32")
        if dtype == "auto":
            dtype = "bfloat16" if settings.device == "cuda" else choose_dtype(settings.data_dir)
        return cls(settings.device, getattr(torch, dtype), settings.gradient_checkpointing)


class LoadedBase:
    """A base model in memory."""

    def __init__(self, served: ServedModel, device: Device, prefix_bytes: int = 256 * MIB) -> None:
        started = time.monotonic()
        self.served = served
        # In mixed precision weights keep the type of their files until they are converted.
        dtype = None if device.mixed else device.dtype
        model = load_decoder(served.path, dtype, attn_implementation=ENGINE_ATTENTION)
        if device.mixed:
            halve_projections(model)
        model = model.to(device.name).eval().requires_grad_(False)
        if device.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.tokenizer = AutoTokenizer.from_pretrained(served.path, local_files_only=True)
        self.device = torch.device(device.name)
        self.config = model.config.get_text_config(decoder=True)
        self.eos = _eos_ids(model, self.tokenizer)
        fuse_projections(model)
        adopt_recurrent_layers(model)
        adopt_indexers(model)
        adopt_inkling(model)
        adopt_glm_flash(model)
        adopt_compressed_attention(model)
        self.plain = Network(model, mixed=device.mixed)
        self.prefixes = PrefixCache(prefix_bytes)
        self._wrapped: dict[LoraShape, tuple[PeftWrapper, Network]] = {}
        _check_halves(model)
        check_training(served, model)
        log.info("loaded %s in %.1f s", served.id, time.monotonic() - started)

    @cached_property
    def sampling_network(self) -> MultiAdapterNetwork:
        """The network for sampling: each row of a batch has its own adapter."""
        network = MultiAdapterNetwork(self.plain.causal_lm, mixed=self.plain.mixed)
        if not network.fused or not _decodes_alike(network):
            log.info("%s decodes through transformers", self.served.id)
            network.use_transformers()
            if not _decodes_alike(network):
                raise OperationFailed(
                    f"{self.served.id} decodes other logits than its whole forward pass gives, so "
                    "this engine cannot sample from it",
                    category="server",
                )
        return network

    @property
    def sampling_bytes(self) -> int:
        """Bytes of the adapters that are sampled from, and of cached prompts."""
        adapters = self.sampling_network.bytes if "sampling_network" in vars(self) else 0
        return adapters + self.prefixes.bytes

    def drop_idle(self) -> None:
        """Free the memory of adapters that are not in use, and of cached prompts."""
        self.prefixes.clear()
        if "sampling_network" in vars(self):
            self.sampling_network.drop_idle()

    def wrapper_for(self, shape: LoraShape) -> tuple[PeftWrapper, Network]:
        """Return the PEFT wrapper for SHAPE and the network on it."""
        if shape not in self._wrapped:
            wrapper = PeftWrapper(self.plain.causal_lm, shape)
            adopt_lora_layers(wrapper.causal_lm)
            network = Network(wrapper.causal_lm, mixed=self.plain.mixed)
            self._wrapped[shape] = wrapper, network
        return self._wrapped[shape]


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end-of-text tokens of the generation settings and of the tokenizer."""
    named = model.generation_config.eos_token_id
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    return frozenset(int(token) for token in ids if token is not None)


@torch.no_grad()
def _decodes_alike(network: MultiAdapterNetwork) -> bool:
    """Whether the fused decoding step gives the logits of transformers' whole forward pass."""
    tokens = torch.arange(6, device=network.device)
    expected = network.logits(network.hidden(tokens[None])[0])
    states = prefill(network, [tokens[:4].cpu().numpy()], []).states
    cache = SlotCache()
    cache.admit(states, 0, 4, 1)
    exact = all(p.dtype == torch.float32 for p in network.causal_lm.parameters())
    tolerance = 1e-3 if exact else 0.05
    for place in (4, 5):
        logits = network.logits(network.decode(tokens[place : place + 1], SlotStep([cache])))[0]
        error = (logits - expected[place]).abs().max()
        if not error <= tolerance * expected[place].abs().max():
            return False
    return True


@torch.no_grad()
def _check_halves(model: Any) -> None:
    """Refuse an architecture whose logits are not its last layer times the hidden states."""
    probe = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    whole = model(input_ids=probe, use_cache=False).logits.float()
    network = Network(model)
    halves = network.logits(network.hidden(probe))
    if not torch.allclose(whole, halves, rtol=1e-3, atol=1e-3):
        raise OperationFailed(
            f"{type(model).__name__} changes its logits after the last layer, "
            "which this engine does not support",
            category="server",
        )
