"""Many adapters in one batch: each row is computed with the adapter that it asks for.

For every layer the low-rank factors of all adapters in use lie side by side, as one wide adapter.
A row goes through all of it at once, and what is not its own is set to zero between the two
factors, so a batch costs two matrix products per layer however many adapters are in it, and a
row of the base model gets exactly the base model. Training does not come here: a run computes
alone, through PEFT (`adapters.py`).
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dreadnode_engine.compute.adapters import ADAPTED, WEIGHTS_FILE, factors_of, read_adapter
from dreadnode_engine.compute.network import Network
from dreadnode_engine.errors import OperationFailed

MAX_RANKS = 1024
"""How many ranks, over all adapters, may be in use at once; one adapter more has to wait."""
IDLE_ADAPTERS = 4
"""How many adapters that no sample uses now stay in memory for the next request."""

_NUMBERS = itertools.count(1)
Factors = tuple[Tensor, Tensor]
"""`a` (ranks, in) and `b` (ranks, out) of one layer, or both with the experts in front."""


Layout = tuple[tuple[int, int], ...]
"""The adapters that lie side by side on one layer: the number of each, and its ranks."""


class Adapter:
    """An adapter in memory, ready to be laid beside others: its factors by the layer's name."""

    def __init__(
        self, folder: Path, sizes: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> None:
        self.stamp = _stamp(folder)
        try:
            tensors, self.rank, scale = read_adapter(folder)
        except (OSError, SafetensorError):
            raise OperationFailed(
                "The weights of this sampler are no longer kept; save them again"
            ) from None
        self.number = next(_NUMBERS)
        self.factors: dict[str, Factors] = {}
        for name, a, b in factors_of(tensors, sizes, scale):
            # Zero times infinity would reach the rows of others.
            if not (a.isfinite().all() and b.isfinite().all()):
                raise OperationFailed("The weights of this sampler are not all finite numbers")
            self.factors[name] = a.to(device), b.to(device)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(part.nbytes for pair in self.factors.values() for part in pair)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what tells the weights in FOLDER from others there; None if there are none."""
    try:
        status = (folder / WEIGHTS_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class Rows:
    """Which adapter each row of the batch at hand asks for, by its number; 0 is none."""

    def __init__(self) -> None:
        self.wanted: list[int] = []
        self._others: dict[Layout, Tensor | None] = {}

    def set(self, wanted: list[int]) -> None:
        """Let row i want the adapter WANTED[i]."""
        if wanted != self.wanted:
            self.wanted = wanted
            self._others = {}

    def others(self, layout: Layout, device: torch.device) -> Tensor | None:
        """Return which ranks of LAYOUT are not the row's own; None when no row has any there."""
        if layout not in self._others:
            self._others[layout] = self._find(layout, device)
        return self._others[layout]

    def _find(self, layout: Layout, device: torch.device) -> Tensor | None:
        numbers = [number for number, _ in layout]
        if not set(numbers) & set(self.wanted):
            return None
        ranks = torch.tensor([ranks for _, ranks in layout])
        owners = torch.tensor(numbers).repeat_interleave(ranks)
        return (torch.tensor(self.wanted)[:, None] != owners).to(device)


class Stack:
    """The factors of all adapters in use on one layer, and who owns which ranks of them."""

    def __init__(
        self, rows: Rows, name: str, size: tuple[int, ...], layer: nn.Linear | None
    ) -> None:
        self.name = name
        self.size = size
        self._rows = rows
        self._layer = layer
        self._hook: RemovableHandle | None = None
        self._layout: Layout = ()
        self.a = self.b = torch.empty(0)

    def fill(self, adapters: Sequence[Adapter]) -> None:
        """Lay the factors of ADAPTERS side by side; one alone is not copied."""
        mine = [
            (one.number, *one.factors[self.name]) for one in adapters if self.name in one.factors
        ]
        self._layout = tuple((number, a.shape[-2]) for number, a, _ in mine)
        if mine:
            parts = list(zip(*mine, strict=True))[1:]
            self.a, self.b = (p[0] if len(p) == 1 else torch.cat(p, dim=-2) for p in parts)
        else:
            self.a = self.b = torch.empty(0)
        # A layer with nothing to add is called without a detour.
        if self._hook is not None and not mine:
            self._hook.remove()
            self._hook = None
        elif self._hook is None and mine and self._layer is not None:
            self._hook = self._layer.register_forward_hook(self)

    def others(self) -> Tensor | None:
        """Return which ranks each row must not use; None when no row uses any here."""
        return self._rows.others(self._layout, self.a.device) if self._layout else None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add each row's own update to what the layer MODULE made of it (a forward hook)."""
        others = self.others()
        if others is None:
            return output
        (x,) = inputs
        if x.ndim == 3:
            others = others[:, None]
        inner = (x.to(self.a.dtype) @ self.a.T).masked_fill(others, 0)
        return (output + inner @ self.b).to(output.dtype)

    def update(self, x: Tensor, others: Tensor, expert: int) -> Tensor:
        """Return the update of EXPERT for the tokens X (tokens, in), as OTHERS lets each use it."""
        inner = (x.to(self.a.dtype) @ self.a[expert].T).masked_fill(others, 0)
        return inner @ self.b[expert]


class MixedExperts(nn.Module):
    """The experts of one layer, each token computed with the adapter of its row."""

    def __init__(self, experts: nn.Module, up: Stack, down: Stack, rows: Rows) -> None:
        super().__init__()
        self.experts = experts
        self._up, self._down, self._rows = up, down, rows

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the weighed sum of the CHOSEN experts for each token of HIDDEN (tokens, width)."""
        others = [stack.others() for stack in (self._up, self._down)]
        if others[0] is None and others[1] is None:
            return self.experts(hidden, chosen, weights)  # type: ignore[no-any-return]
        # All rows of a batch are equally long here, prompts by padding.
        row_of = torch.arange(len(hidden), device=hidden.device)
        row_of = row_of // (len(hidden) // len(self._rows.wanted))
        total = torch.zeros_like(hidden)
        for expert in torch.unique(chosen).tolist():
            token, place = torch.where(chosen == expert)
            mine = [None if every is None else every[row_of[token]] for every in others]
            inner = self._one(self._up, "gate_up_proj", hidden[token], expert, mine[0])
            inner = self.experts._apply_gate(inner)  # type: ignore[operator]
            outer = self._one(self._down, "down_proj", inner, expert, mine[1])
            total.index_add_(0, token, (outer * weights[token, place, None]).to(total.dtype))
        return total

    def _one(
        self, stack: Stack, name: str, x: Tensor, expert: int, others: Tensor | None
    ) -> Tensor:
        weights: Tensor = getattr(self.experts, name)
        output = x @ weights[expert].T
        if others is None:
            return output
        return (output + stack.update(x, others, expert)).to(output.dtype)


class MixedNetwork(Network):
    """A base model that computes each row with its own adapter, and shares the base's weights."""

    def __init__(self, base: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        skeleton = copy.deepcopy(base, shared)
        self._rows = Rows()
        self._stacks: dict[str, Stack] = {}
        for name, module in list(skeleton.named_modules()):
            leaf = name.rpartition(".")[2]
            if isinstance(module, nn.Linear) and leaf in ADAPTED:
                self._stack(name, module.weight, module)
            elif leaf == "experts" and isinstance(getattr(module, "gate_up_proj", None), Tensor):
                self._mix_experts(skeleton, name, module)
        super().__init__(skeleton)
        self._device = next(base.parameters()).device
        self._adapters: dict[Path, Adapter] = {}
        self._stacked: dict[Path, Adapter] = {}

    def _stack(self, name: str, weight: Tensor, layer: nn.Linear | None = None) -> Stack:
        self._stacks[name] = Stack(self._rows, name, tuple(weight.shape), layer)
        return self._stacks[name]

    def _mix_experts(self, skeleton: nn.Module, name: str, experts: nn.Module) -> None:
        up, down = (
            self._stack(f"{name}.{inner}", getattr(experts, inner))
            for inner in ("gate_up_proj", "down_proj")
        )
        parent = skeleton.get_submodule(name.rpartition(".")[0])
        parent.experts = MixedExperts(experts, up, down, self._rows)

    @property
    def bytes(self) -> int:
        """What adapters take in memory: once each, and once more where they lie side by side."""
        beside = sum(one.bytes for one in self._stacked.values()) if len(self._stacked) > 1 else 0
        return beside + sum(one.bytes for one in self._adapters.values())

    def holds(self, folder: Path) -> bool:
        """Whether the adapter in FOLDER is in memory."""
        return folder in self._adapters

    def fetch(self, folder: Path) -> Adapter:
        """Return the adapter in FOLDER, read now if it is not in memory."""
        adapter = self._adapters.pop(folder, None) or self._read(folder)
        # The one used last stands last.
        self._adapters[folder] = adapter
        return adapter

    def renew(self, folder: Path) -> None:
        """Read the adapter in FOLDER again if it is in memory, and others were saved there since.

        Samples that are being drawn from there go on with the new weights.
        """
        held = self._adapters.get(folder)
        if held is not None and _stamp(folder) not in (None, held.stamp):
            self._adapters[folder] = self._read(folder)

    def _read(self, folder: Path) -> Adapter:
        sizes = {name: stack.size for name, stack in self._stacks.items()}
        return Adapter(folder, sizes, self._device)

    def fits(self, using: Sequence[Path | None], folder: Path) -> bool:
        """Whether the adapter in FOLDER may be used beside those that are USING the batch."""
        beside = {one for one in using if one is not None and one != folder}
        ranks = sum(self.fetch(one).rank for one in beside) + self.fetch(folder).rank
        return not beside or ranks <= MAX_RANKS

    def route(self, rows: Sequence[Path | None], beside: Sequence[Path | None] = ()) -> None:
        """Compute row i of what follows with ROWS[i]; those BESIDE are needed again soon."""
        wanted = {folder for folder in rows if folder is not None}
        stacked = sum(one.rank for one in self._stacked.values())
        needed = {folder: self.fetch(folder) for folder in sorted(wanted)}
        spare = stacked > 0 and 2 * sum(one.rank for one in needed.values()) <= stacked
        known = all(self._stacked.get(folder) is one for folder, one in needed.items())
        if not known or (spare and not beside):
            also = {one for one in beside if one is not None} - wanted
            self._restack(needed | {folder: self.fetch(folder) for folder in sorted(also)})
        self._rows.set([0 if folder is None else needed[folder].number for folder in rows])

    @contextmanager
    def only(self, row: int) -> Iterator[None]:
        """Compute with ROW's adapter alone, whatever is computed."""
        rows = self._rows.wanted
        self._rows.set(rows[row : row + 1])
        try:
            yield
        finally:
            self._rows.set(rows)

    def forget_idle(self, keep: int = 0) -> None:
        """Drop from memory the adapters that are not in use, all but the KEEP used last."""
        idle = [folder for folder in self._adapters if folder not in self._stacked]
        for folder in idle[: max(0, len(idle) - keep)]:
            del self._adapters[folder]

    def release(self) -> None:
        """Use no adapter at all until the next `route`."""
        self._rows.set([])
        self._restack({})

    def _restack(self, adapters: Mapping[Path, Adapter]) -> None:
        self._stacked = dict(adapters)
        for stack in self._stacks.values():
            stack.fill(list(adapters.values()))
        self.forget_idle(IDLE_ADAPTERS)
