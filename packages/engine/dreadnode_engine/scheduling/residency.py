"""What is in memory, within a budget: base models and runs come when needed and go when idle.

Disk is where everything is; memory is a cache of it. When something has to come in, what has been
idle longest goes first: adapters of samplers, then runs, which are snapshotted, then whole base
models.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import WEIGHTS_FILE, LoraShape
from dreadnode_engine.compute.base_models import LoadedBase
from dreadnode_engine.compute.multi_adapter import IDLE_ADAPTERS
from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.errors import OperationFailed, Refused

if TYPE_CHECKING:
    from dreadnode_engine.engine import Engine

log = logging.getLogger(__name__)


class Residency:
    """Decides what may be made, and makes room for it.

    Only `admit` may be called from any thread; the rest belongs to the computing thread.
    """

    def __init__(self, engine: "Engine", budget: int) -> None:
        self._engine = engine
        self.budget = budget
        self.bases: dict[str, LoadedBase] = {}
        self._order: list[str] = []

    def admit(
        self, served: ServedModel, shape: LoraShape | None, *, sampling: bool = False
    ) -> None:
        """Refuse what would not fit even if nothing else were in memory.

        Asked is for a run of SHAPE, or for sampling with an adapter of SHAPE or with none.

        A run must have room for an ordinary micro-batch; what a request of longer sequences takes
        is known when it comes, and asked of `check_sequence`.
        """
        if sampling or shape is None:
            need = self._base(served) + self._sampling(served)
            need += 2 * memory.adapter_bytes(served, shape) if shape is not None else 0
            what = f"Sampling from {served.id}"
        else:
            need = self._base(served) + self._training(served) + memory.run_bytes(served, shape)
            what = f"A run of rank {shape.rank} on {served.id}"
        if need > self.budget:
            raise Refused(
                f"{what} needs about {memory.told(need)} of memory, and this engine may fill "
                f"{memory.told(self.budget)}; choose a smaller model or rank"
            )

    def check_sequence(self, served: ServedModel, shape: LoraShape, tokens: int) -> None:
        """Fail a request whose longest sequence leaves no room for its backward pass."""
        device = self._engine.settings.device
        need = self._base(served) + memory.run_bytes(served, shape)
        need += memory.training_bytes(served, device, tokens)
        if need > self.budget:
            raise OperationFailed(
                f"Training on a sequence of {tokens} tokens needs about {memory.told(need)} of "
                f"memory, and this engine may fill {memory.told(self.budget)}; send shorter "
                "sequences, or start the engine with `--gradient-checkpointing`"
            )

    def base(self, model_id: str) -> LoadedBase:
        """Return a base model, loaded now if it is not in memory."""
        if model_id in self.bases:
            self._order.remove(model_id)
        else:
            served = self._engine.models.get(model_id)
            if served is None:
                raise OperationFailed(f"This engine no longer serves {model_id}", "server")
            self._make_room(self._base(served) + self._working(served), keep=model_id)
            self.bases[model_id] = LoadedBase(served, self._engine.settings.device)
        self._order.append(model_id)
        return self.bases[model_id]

    def room_for_run(self, model_id: str, shape: LoraShape) -> None:
        """Make room for a run that is about to come into memory."""
        served = self.base(model_id).served
        self._make_room(memory.run_bytes(served, shape), keep=model_id)

    def room_for_adapter(self, model_id: str, folder: Path) -> None:
        """Make room for the adapter in FOLDER, which samples are about to be drawn with."""
        self.base(model_id).mixed.forget_idle(IDLE_ADAPTERS - 1)
        # Once by itself, and once more beside those of other samples.
        size = sum(file.stat().st_size for file in folder.glob(WEIGHTS_FILE))
        self._make_room(2 * size, keep=model_id)

    def room_for_cache(self, model_id: str) -> tuple[int, int]:
        """Return how many tokens a key-value cache may hold now, and its bytes beyond a context."""
        served, settings = self.base(model_id).served, self._engine.settings
        one = memory.cache_bytes(served, settings.device.dtype, 1)
        more = min(settings.sampling_positions - served.context, (self.budget - self.used()) // one)
        return served.context + max(0, more), one * max(0, more)

    def used(self) -> int:
        """Return what is in memory now, with what computing on it may add."""
        total = sum(self._base(base.served) + base.adapter_bytes for base in self.bases.values())
        total += max((self._working(base.served) for base in self.bases.values()), default=0)
        total += sum(lane.cache_bytes for lane in list(self._engine.sample_lanes.values()))
        for lane in list(self._engine.runs.values()):
            if lane.state is not None:
                total += memory.run_bytes(lane.state.base.served, lane.state.shape)
        return total

    def _make_room(self, need: int, keep: str) -> None:
        """Let go of what is idle until NEED fits, or until nothing idle is left."""
        if self.used() + need <= self.budget:
            return
        for base in self.bases.values():
            if base.adapter_bytes:
                base.mixed.forget_idle()
        if self.used() + need <= self.budget:
            return
        lanes = sorted(self._engine.runs.values(), key=lambda lane: lane.run.used)
        for lane in lanes:
            if lane.state is not None and lane.let_go():
                log.info("run %s leaves memory", lane.run.id)
                if self.used() + need <= self.budget:
                    return
        for model_id in [name for name in self._order if name != keep]:
            if self._base_is_idle(model_id):
                self._order.remove(model_id)
                del self.bases[model_id]
                log.info("base model %s leaves memory", model_id)
                if self.used() + need <= self.budget:
                    return

    def _base_is_idle(self, model_id: str) -> bool:
        runs = list(self._engine.runs.values())
        if any(lane.state and lane.run.base_model == model_id for lane in runs):
            return False
        samples = [s for s in list(self._engine.sample_lanes.values()) if s.base_model == model_id]
        if not all(lane.idle for lane in samples):
            return False
        for lane in samples:
            lane.let_go()
        return True

    def _base(self, served: ServedModel) -> int:
        return memory.base_bytes(served, self._engine.settings.device.dtype)

    def _working(self, served: ServedModel) -> int:
        return max(self._training(served), self._sampling(served))

    def _training(self, served: ServedModel) -> int:
        settings = self._engine.settings
        return memory.training_bytes(served, settings.device, settings.micro_batch_tokens)

    def _sampling(self, served: ServedModel) -> int:
        return memory.cache_bytes(served, self._engine.settings.device.dtype, served.context)
