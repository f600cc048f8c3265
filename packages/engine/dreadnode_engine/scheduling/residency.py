"""What is in memory: base models and runs are loaded when needed and evicted when idle.

Everything is on disk; memory is a cache of it. When something must be loaded, the things that have
been idle longest are evicted first: adapters of samplers, then runs, which are snapshotted, then
base models.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import WEIGHTS_FILE, LoraShape
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.multi_adapter import IDLE_ADAPTERS
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.settings import GIB, MIB, Settings

if TYPE_CHECKING:
    # The queues ask for memory, so they import this module.
    from dreadnode_engine.scheduling.run_queue import RunQueue
    from dreadnode_engine.scheduling.sample_queue import SampleQueue

log = logging.getLogger(__name__)


class Residency:
    """Decides what may be loaded, and makes room for it.

    `admit` and `limits` are safe in any thread; the rest belongs to the computing thread.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ServedModel],
        runs: "Mapping[str, RunQueue]",
        sample_queues: "Mapping[str, SampleQueue]",
    ) -> None:
        self._settings = settings
        self._models = models
        self._runs = runs
        self._sample_queues = sample_queues
        self.device = Device.of(settings)
        self._budget = memory.Budget(
            settings.device, int(settings.memory_gib * GIB) if settings.memory_gib else None
        )
        self.bases: dict[str, LoadedBase] = {}
        self._last_used: dict[str, float] = {}

    @property
    def budget(self) -> int:
        """Bytes that models, runs and computing may use now."""
        return self._budget.bytes

    def admit(
        self, served: ServedModel, shape: LoraShape | None, *, sampling: bool = False
    ) -> None:
        """Refuse what would not fit even if nothing else were in memory.

        Args:
            served: the base model.
            shape: the adapter of the run or sampler; None samples from the base model.
            sampling: whether it is for sampling; a run also needs room for a micro-batch.
        """
        if sampling or shape is None:
            need = self.sampling_need(served, shape)
            what = f"Sampling from {served.id}"
        else:
            need = self.training_need(served, shape)
            what = f"A run of rank {shape.rank} on {served.id}"
        if need > self.budget:
            raise Refused(
                f"{what} needs about {memory.format_bytes(need)} of memory, and this engine may "
                f"use {memory.format_bytes(self.budget)}; free memory on the machine, or choose a "
                "smaller model or rank"
            )

    def describe(self, served: ServedModel) -> dict[str, int | str]:
        """Return what a run on SERVED needs, so that a job can be refused before it is accepted.

        A run of rank r that trains all layers needs `fixed_bytes + r * bytes_per_rank`, and
        `bytes_per_token` for each token of a sequence beyond `micro_batch_tokens`.
        """
        tokens = self._settings.micro_batch
        one, two = (
            self.training_need(served, LoraShape(rank, True, True, True)) for rank in (1, 2)
        )
        return {
            "fixed_bytes": 2 * one - two,
            "bytes_per_rank": two - one,
            "bytes_per_token": memory.training_bytes(served, self.device, tokens + 1)
            - memory.training_bytes(served, self.device, tokens),
            "micro_batch_tokens": tokens,
            "budget_bytes": self.budget,
            "dtype": str(self.device.dtype).removeprefix("torch."),
        }

    def training_need(self, served: ServedModel, shape: LoraShape) -> int:
        """Return the bytes that one run needs with its base model and a micro-batch."""
        return self._base_bytes(served) + self._training(served) + memory.run_bytes(served, shape)

    def sampling_need(self, served: ServedModel, shape: LoraShape | None) -> int:
        """Return the bytes that sampling needs with the base model and a cache of one context."""
        adapter = 2 * memory.adapter_bytes(served, shape) if shape is not None else 0
        return self._base_bytes(served) + self._sampling(served) + adapter

    def check_sequence(self, served: ServedModel, shape: LoraShape, tokens: int) -> None:
        """Fail a request whose longest sequence leaves no room for its backward pass."""
        need = self._base_bytes(served) + memory.run_bytes(served, shape)
        need += memory.training_bytes(served, self.device, tokens)
        if need > self.budget:
            raise OperationFailed(
                f"Training on a sequence of {tokens} tokens needs about "
                f"{memory.format_bytes(need)} of memory, and this engine may use "
                f"{memory.format_bytes(self.budget)}; send shorter sequences, or start the engine "
                "with `--gradient-checkpointing`"
            )

    def base(self, model_id: str) -> LoadedBase:
        """Return a base model; load it if it is not in memory."""
        self._last_used[model_id] = time.monotonic()
        if model_id not in self.bases:
            served = self._models.get(model_id)
            if served is None:
                raise OperationFailed(f"This engine no longer serves {model_id}", "server")
            self._make_room(self._base_bytes(served) + self._working(served), keep=model_id)
            self.bases[model_id] = LoadedBase(
                served, self.device, min(self._settings.prefix_cache_mib * MIB, self.budget // 16)
            )
        return self.bases[model_id]

    def reserve_run(self, model_id: str, shape: LoraShape) -> None:
        """Make room for a run that is about to be loaded."""
        served = self.base(model_id).served
        self._make_room(memory.run_bytes(served, shape), keep=model_id)

    def reserve_adapter(self, model_id: str, folder: Path) -> None:
        """Make room for the adapter in FOLDER, which is about to be sampled from."""
        self.base(model_id).sampling_network.drop_idle(IDLE_ADAPTERS - 1)
        # Once by itself, and once more beside the adapters of other requests.
        size = sum(file.stat().st_size for file in folder.glob(WEIGHTS_FILE))
        self._make_room(2 * size, keep=model_id)

    def reserve_cache(self, model_id: str) -> tuple[int, int]:
        """Return the tokens that a cache may hold, and its bytes beyond one context."""
        served = self.base(model_id).served
        one = memory.cache_bytes(served, self.device, 1)
        first = served.context + self.row_tokens(served)
        more = min(self._settings.sampling_tokens - first, (self.budget - self.used()) // one)
        return first + max(0, more), one * max(0, more)

    def row_tokens(self, served: ServedModel) -> int:
        """Return how many tokens in a cache take as much as the recurrent states of a sequence."""
        one = memory.cache_bytes(served, self.device, 1)
        return math.ceil(memory.state_bytes(served) / one)

    def used(self) -> int:
        """Return the bytes in memory, with what computing on it may add."""
        bases = list(self.bases.values())
        total = sum(self._base_bytes(base.served) + base.sampling_bytes for base in bases)
        total += max((self._working(base.served) for base in bases), default=0)
        total += sum(queue.cache_bytes for queue in list(self._sample_queues.values()))
        for queue in list(self._runs.values()):
            if queue.state is not None:
                total += memory.run_bytes(queue.state.base.served, queue.state.shape)
        return total

    def when_idle(self) -> None:
        """Evict base models that nobody has used for long, and return free memory."""
        expired = time.monotonic() - self._settings.session_seconds
        for model_id in [name for name in self.bases if self._last_used[name] < expired]:
            self._evict_base(model_id)
        self._budget.give_back()

    def _make_room(self, need: int, keep: str) -> None:
        """Evict what is idle until NEED fits, or until nothing idle is left."""
        if self.used() + need <= self.budget:
            return
        for base in self.bases.values():
            base.drop_idle()
        for queue in sorted(self._runs.values(), key=lambda queue: queue.run.used):
            if self.used() + need <= self.budget:
                return
            if queue.state is not None and queue.evict():
                log.info("evicted run %s", queue.run.id)
        for model_id in sorted(self.bases, key=lambda name: self._last_used[name]):
            if self.used() + need <= self.budget:
                return
            if model_id != keep:
                self._evict_base(model_id)

    def _evict_base(self, model_id: str) -> None:
        """Evict a base model if no run or sample uses it."""
        runs = list(self._runs.values())
        if any(queue.state and queue.run.base_model == model_id for queue in runs):
            return
        samples = [q for q in list(self._sample_queues.values()) if q.base_model == model_id]
        if not all(queue.idle for queue in samples):
            return
        for queue in samples:
            queue.evict()
        del self.bases[model_id]
        log.info("evicted base model %s", model_id)

    def _base_bytes(self, served: ServedModel) -> int:
        return memory.base_bytes(served, self.device)

    def _working(self, served: ServedModel) -> int:
        return max(self._training(served), self._sampling(served))

    def _training(self, served: ServedModel) -> int:
        return memory.training_bytes(served, self.device, self._settings.micro_batch)

    def _sampling(self, served: ServedModel) -> int:
        cache = memory.cache_bytes(served, self.device, served.context)
        return cache + memory.state_bytes(served)
