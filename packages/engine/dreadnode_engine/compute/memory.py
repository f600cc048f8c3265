"""What things weigh, before they are made: so that what does not fit is refused, not tried.

The figures are estimates from shapes. Weights, gradients and optimizer are exact; activations are
an upper bound for a micro-batch of one decoder layer stack, which is what a request can add.
"""

import functools
import math
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from dreadnode_engine.compute.adapters import LoraShape, Wrapped
from dreadnode_engine.compute.base_models import Device
from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.compute.training import LOGIT_ROWS

FLOAT = 4
"""Bytes of what is trained: adapters, gradients and moments are float32 on every device."""


@functools.lru_cache(maxsize=64)
def parameters(path: Path) -> int:
    """Return how many weights the model in PATH has, from the headers of its files."""
    count = 0
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                count += math.prod(opened.get_slice(name).get_shape())
    return count


def base_bytes(served: ServedModel, dtype: torch.dtype) -> int:
    """Return what the weights of a base model take."""
    return parameters(served.path) * dtype.itemsize


@functools.lru_cache(maxsize=256)
def adapter_parameters(path: Path, shape: LoraShape) -> int:
    """Return how many weights an adapter of SHAPE has on the model in PATH."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        # float32 is the default already: another one would be set for every thread meanwhile.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        skeleton = Wrapped(model, shape)
    return sum(math.prod(size) for size in skeleton.shapes.values())


def adapter_bytes(served: ServedModel, shape: LoraShape) -> int:
    """Return what the weights of an adapter of SHAPE take."""
    return FLOAT * adapter_parameters(served.path, shape)


def run_bytes(served: ServedModel, shape: LoraShape) -> int:
    """Return what a run takes: weights, gradients and Adam's two moments."""
    return 4 * adapter_bytes(served, shape)


def training_bytes(served: ServedModel, device: Device, tokens: int) -> int:
    """Return what a backward pass over TOKENS at once may take: activations, and some logits.

    About 34 values of the hidden width are kept per token and layer for the backward pass
    (Korthikanti et al. 2022, without the attention matrix, which sdpa does not keep); with
    gradient checkpointing one per layer, and the 34 of the one layer that is being computed.
    """
    config = AutoConfig.from_pretrained(served.path, local_files_only=True)
    layers = int(config.num_hidden_layers)
    values = layers + 34 if device.gradient_checkpointing else 34 * layers
    kept = values * tokens * int(config.hidden_size) * device.dtype.itemsize
    return kept + 3 * LOGIT_ROWS * served.vocabulary * FLOAT


def cache_bytes(served: ServedModel, dtype: torch.dtype, positions: int) -> int:
    """Return what the key-value cache of POSITIONS tokens takes."""
    config = AutoConfig.from_pretrained(served.path, local_files_only=True)
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2 * positions * int(config.num_hidden_layers) * groups * width * dtype.itemsize


def available(device: str) -> int:
    """Return the bytes that the engine may fill: four fifths of what is free on DEVICE now."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0] * 0.8)
    return int(psutil.virtual_memory().available * 0.8)


def told(size: int) -> str:
    """Return SIZE in bytes as people read it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"
