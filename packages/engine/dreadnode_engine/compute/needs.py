"""What base models need of a machine, and whether this one has it.

Models are known by their weights here, or by what is published about them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig

from dreadnode_engine.base_models.architectures import HYBRIDS
from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.base_models.published import PUBLISHED
from dreadnode_engine.compute import decoder_memory, memory
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.decoders import decoder_config
from dreadnode_engine.compute.loaded_model import Device

RANK = 32
"""The rank of the adapter that needs are told for; it trains all layers."""


def describe_needs(models: Mapping[str, ServedModel], context: int) -> dict[str, Any]:
    """Return the needs of MODELS, and of published ones, at CONTEXT tokens.

    Returns:
        `device`, `dtype`, `budget_bytes`, `context` and `rank`, and by the name of each model its
        `architecture` with `weights_bytes`, `training_bytes` and `sampling_bytes`, `fits` and
        `source`.
    """
    gpu = torch.cuda.is_available()
    device = Device("cuda", torch.bfloat16) if gpu else Device()
    budget = memory.Budget(device.name, None).bytes
    found: dict[str, Any] = {}
    for name, known in PUBLISHED.items():
        config = AutoConfig.for_model(known.model_type, **known.settings)
        sizes = known.parameters * device.dtype.itemsize, known.adapter_parameters * RANK
        found[name] = _needs(config, device, context, *sizes) | {"source": known.source}
    for name, served in models.items():
        config = decoder_config(served.path)
        adapter = memory.adapter_parameters(served.path, LoraShape(RANK, True, True, True))
        sizes = memory.base_bytes(served, device), adapter
        found[name] = _needs(config, device, context, *sizes) | {"source": str(served.path)}
    for each in found.values():
        each["fits"] = max(each["training_bytes"], each["sampling_bytes"]) <= budget
    return {
        "device": device.name,
        "dtype": str(device.dtype).removeprefix("torch."),
        "budget_bytes": budget,
        "context": context,
        "rank": RANK,
        "models": found,
    }


def _needs(config: Any, device: Device, context: int, weights: int, adapter: int) -> dict[str, Any]:
    """Return what a model with CONFIG needs.

    Args:
        config: of transformers.
        device: where it is computed.
        context: tokens of the sequence that is trained or sampled.
        weights: bytes of the base weights.
        adapter: numbers of the adapter; a run has gradients and two moments of each.
    """
    decoder = config.get_text_config(decoder=True)
    adapter *= decoder_memory.FLOAT
    cache = decoder_memory.cache_bytes(decoder, device, context)
    cache += decoder_memory.state_bytes(decoder)
    return {
        "architecture": HYBRIDS.get(decoder.model_type, "full attention"),
        "weights_bytes": weights,
        "training_bytes": weights
        + 4 * adapter
        + decoder_memory.training_bytes(decoder, device, context),
        "sampling_bytes": weights + 2 * adapter + cache,
    }
