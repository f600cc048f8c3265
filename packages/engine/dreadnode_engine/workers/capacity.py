"""Whether the copies of the base weights fit into the memory of this machine."""

from collections.abc import Mapping

import psutil
import torch

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.compute import memory
from dreadnode_engine.compute.loaded_model import Device
from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import GIB, Settings


def memory_of_each(settings: Settings, models: Mapping[str, ServedModel]) -> float | None:
    """Return the memory of each worker in GiB; None on GPUs, of which each has its own.

    Raises:
        Refused: A model that was named in SETTINGS does not fit once into each part.
    """
    if settings.device != "cpu":
        return settings.memory_gib
    if settings.memory_gib is not None:
        whole = int(settings.memory_gib * GIB)
    else:
        free = min(psutil.virtual_memory().available, memory.free_in_cgroup())
        whole = int(free * memory.SHARE)
    part = whole // settings.workers
    # At least: `--dtype auto` is measured later.
    half = settings.dtype in ("auto", "bfloat16")
    device = Device(dtype=torch.bfloat16 if half else torch.float32)
    for model_id in (pair.partition("=")[0] for pair in settings.model):
        need = memory.base_bytes(models[model_id], device)
        if need > part:
            raise Refused(
                f"The weights of {model_id} need {memory.format_bytes(need)}, and each of "
                f"{settings.workers} workers may use {memory.format_bytes(part)} of "
                f"{memory.format_bytes(whole)}; start fewer workers, or use a machine with more "
                "memory"
            )
    return part / GIB
