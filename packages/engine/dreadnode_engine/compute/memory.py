"""Memory estimates, made before anything is loaded: what does not fit is refused.

The numbers are estimates from shapes. Those of weights, gradients and optimizer are exact; those of
activations are within a quarter of what was measured.
"""

import ctypes
import functools
import json
import math
import re
from pathlib import Path

import psutil
import torch
from safetensors import safe_open

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.base_models.quantization import converted_name, weights_per_number
from dreadnode_engine.base_models.stored_weights import decoder_name, layer_count
from dreadnode_engine.compute import decoder_memory as decoder
from dreadnode_engine.compute.adapters import PROJECTIONS, LoraShape, PeftWrapper
from dreadnode_engine.compute.decoders import decoder_config, empty_decoder
from dreadnode_engine.compute.loaded_model import Device

_INKLING = frozenset({"wq_du", "wk_dv", "wv_dv", "wr_du", "wo_ud", "gate_attn", "w13_dn", "w2_md"})
"""Projections of Inkling and Inkling 2, by their published names."""
SHARE = 0.8
"""Share of the free memory that the engine may use."""
LONG = 8
"""Bytes of an integer, such as those that name the experts of a token (DeepSeek V4)."""
_DEEPSEEK_V4 = re.compile(
    r".*\.(?:attn\.(?:\w+\.)*(?:wq_a|wq_b|wkv|wgate|wo_b)|shared_experts\.w\d)\.weight"
)
"""Projections of DeepSeek V4 by their published names; `wo_a` is one of several groups."""


def parameters(path: Path) -> int:
    """Return how many weights the model in PATH has, from the headers of its files."""
    return _numbers(path)[0]


@functools.lru_cache(maxsize=64)
def _numbers(path: Path) -> tuple[int, int, int]:
    """Return how many weights the model in PATH has, and how many of projections and integers."""
    count = projections = integers = 0
    layers = layer_count(json.loads((path / "config.json").read_text()))
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                loaded = decoder_name(name, layers)
                if loaded is None:
                    continue
                # A converted number becomes none, one or several weights.
                stored = opened.get_slice(name)
                kind = stored.get_dtype()
                weights = math.prod(stored.get_shape()) * weights_per_number(name, kind)
                count += weights
                projections += weights if _is_projection(loaded) else 0
                integers += weights if kind == "I64" else 0
    return count, projections, integers


def _is_projection(name: str) -> bool:
    layer = (
        (converted_name(name) or "")
        .removesuffix(".weight")
        .removesuffix(".bias")
        .rpartition(".")[2]
    )
    other = layer in _INKLING or _DEEPSEEK_V4.fullmatch(name) is not None
    return (layer in PROJECTIONS or other) and ".experts." not in name


def base_bytes(served: ServedModel, device: Device) -> int:
    """Return the bytes of the weights of a base model."""
    count, projections, integers = _numbers(served.path)
    floats = (count - integers) * device.dtype.itemsize
    if device.mixed:
        floats = 2 * projections + decoder.FLOAT * (count - integers - projections)
    return floats + LONG * integers


@functools.lru_cache(maxsize=256)
def adapter_parameters(path: Path, shape: LoraShape) -> int:
    """Return how many weights an adapter of SHAPE has on the model in PATH."""
    return sum(math.prod(size) for size in skeleton(path, shape).shapes.values())


def skeleton(path: Path, shape: LoraShape) -> PeftWrapper:
    """Return the model in PATH wrapped for adapters of SHAPE, without any weights."""
    with torch.device("meta"):
        return PeftWrapper(empty_decoder(path), shape)


def adapter_bytes(served: ServedModel, shape: LoraShape) -> int:
    """Return the bytes of the weights of an adapter of SHAPE."""
    return decoder.FLOAT * adapter_parameters(served.path, shape)


def run_bytes(served: ServedModel, shape: LoraShape) -> int:
    """Return the bytes of a run: weights, gradients and Adam's two moments."""
    return 4 * adapter_bytes(served, shape)


def training_bytes(served: ServedModel, device: Device, tokens: int) -> int:
    """Return the bytes that a backward pass over TOKENS at once may take on SERVED."""
    return decoder.training_bytes(decoder_config(served.path), device, tokens)


def cache_bytes(served: ServedModel, device: Device, positions: int) -> int:
    """Return what the cache of POSITIONS tokens takes; sequences may share them in any way."""
    return decoder.cache_bytes(decoder_config(served.path), device, positions)


def state_bytes(served: ServedModel) -> int:
    """Return what the recurrent states of one sequence take, whatever its length."""
    return decoder.state_bytes(decoder_config(served.path))


class Budget:
    """How much memory the engine may use: a fixed number, or four fifths of what is free.

    What is free is measured again each time, and what the engine holds already counts as free: it
    is the engine's to evict. So the budget grows and shrinks with the machine. In a container its
    memory limit counts too.
    """

    def __init__(self, device: str, fixed: int | None) -> None:
        self._device = device
        self._fixed = fixed
        self._process = psutil.Process()
        # What the process takes before it holds any model is not the engine's to evict.
        self._start = self._process.memory_info().rss

    @property
    def bytes(self) -> int:
        """Bytes that may be used now."""
        if self._fixed is not None:
            return self._fixed
        if self._device == "cuda":
            free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        else:
            held = max(0, self._process.memory_info().rss - self._start)
            free = min(psutil.virtual_memory().available, free_in_cgroup()) + held
        return int(free * SHARE)

    def give_back(self) -> None:
        """Return free memory from the allocator to the operating system."""
        if self._device == "cuda":
            torch.cuda.empty_cache()
        trim_allocator()


def free_in_cgroup(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> int:
    """Return what is free below the memory limits of this process's cgroups (version 2).

    Args:
        root: where the cgroups are mounted.
        own: the path of the process's cgroup; None reads it.

    Returns:
        Bytes; a huge number if no limit is set.
    """
    free = 2**62
    try:
        if own is None:
            own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        folder = root / own.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            if not (group / "memory.max").exists():
                continue
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                stat = dict(
                    line.split() for line in (group / "memory.stat").read_text().splitlines()
                )
                # The kernel takes cached files back before it ends a process.
                free = min(free, int(limit) - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free
    return max(0, free)


def trim_allocator() -> None:
    """Let glibc return free memory, of which it keeps gigabytes after a backward pass."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def format_bytes(size: int) -> str:
    """Return SIZE in bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"
