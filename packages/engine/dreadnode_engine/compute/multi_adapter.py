"""Many adapters in one batch: each row is computed with its own adapter.

In every layer the low-rank factors of all adapters in use are concatenated to one wide adapter.
Each row is multiplied with all of it, and the ranks of other adapters are set to zero between the
two factors. So a batch costs two matrix products per layer for any number of adapters, and a row
without an adapter gets exactly the base model. Training does not use this: a run computes alone,
through PEFT (`adapters.py`).
"""

import copy
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dreadnode_engine.compute.adapters import ADAPTED, WEIGHTS_FILE, factors_of, read_adapter
from dreadnode_engine.compute.decode_step import DecodeStep
from dreadnode_engine.compute.kv_cache import SlotStep
from dreadnode_engine.compute.layer_states import cache_kinds
from dreadnode_engine.compute.network import NO_MASK, Network
from dreadnode_engine.compute.step_cache import StepCache
from dreadnode_engine.errors import OperationFailed

log = logging.getLogger(__name__)

MAX_RANKS = 1024
"""Ranks of all adapters in one batch; a request with another adapter waits beyond that."""
IDLE_ADAPTERS = 4
"""Unused adapters that stay in memory for the next request."""

_NUMBERS = itertools.count(1)
Factors = tuple[Tensor, Tensor]
"""`a` (ranks, in) and `b` (ranks, out) of one layer; with experts, (experts, ranks, in or out)."""


Layout = tuple[tuple[int, int], ...]
"""The adapters that are concatenated in one layer: the number of each, and its ranks."""


class Adapter:
    """An adapter in memory: its factors by the name of the layer."""

    def __init__(
        self, folder: Path, sizes: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> None:
        self.stamp = _stamp(folder)
        try:
            tensors, self.rank, scale = read_adapter(folder)
        except (OSError, SafetensorError):
            raise OperationFailed(
                "The weights of this sampler were deleted; save them again"
            ) from None
        self.number = next(_NUMBERS)
        self.factors: dict[str, Factors] = {}
        for name, a, b in factors_of(tensors, sizes, scale):
            # Zero times infinity is NaN, which would reach the rows of others.
            if not (a.isfinite().all() and b.isfinite().all()):
                raise OperationFailed("The weights of this sampler are not all finite numbers")
            self.factors[name] = a.to(device), b.to(device)

    @property
    def bytes(self) -> int:
        """Bytes in memory."""
        return sum(part.nbytes for pair in self.factors.values() for part in pair)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return an identity of the weights file in FOLDER; None if there is none."""
    try:
        status = (folder / WEIGHTS_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class RowAdapters:
    """The number of the adapter of each row in the current batch; 0 is the base model."""

    def __init__(self) -> None:
        self.wanted: list[int] = []
        self._masks: dict[Layout, Tensor | None] = {}

    def set(self, wanted: list[int]) -> None:
        """Use the adapter WANTED[i] for row i."""
        if wanted != self.wanted:
            self.wanted = wanted
            self._masks = {}

    def use(self, layout: Layout) -> bool:
        """Whether any row uses an adapter of LAYOUT."""
        return bool(layout) and any(number in self.wanted for number, _ in layout)

    def mask(self, layout: Layout, device: torch.device) -> Tensor | None:
        """Return the mask (rows, ranks) of foreign ranks; None if no rank is foreign to a row."""
        if layout not in self._masks:
            ranks = torch.tensor([ranks for _, ranks in layout])
            owners = torch.tensor([number for number, _ in layout]).repeat_interleave(ranks)
            mask = torch.tensor(self.wanted)[:, None] != owners
            self._masks[layout] = mask.to(device) if bool(mask.any()) else None
        return self._masks[layout]


class AdapterStack:
    """The concatenated factors of all adapters in one layer."""

    def __init__(
        self, rows: RowAdapters, name: str, size: tuple[int, ...], layer: nn.Linear | None
    ) -> None:
        self.name = name
        self.size = size
        self._rows = rows
        self.layer = layer
        self._hook: RemovableHandle | None = None
        self._layout: Layout = ()
        self.a = self.b = torch.empty(0)

    def fill(self, adapters: Sequence[Adapter]) -> None:
        """Concatenate the factors of ADAPTERS; a single one is not copied."""
        mine = [
            (one.number, *one.factors[self.name]) for one in adapters if self.name in one.factors
        ]
        self._layout = tuple((number, a.shape[-2]) for number, a, _ in mine)
        if mine:
            parts = list(zip(*mine, strict=True))[1:]
            self.a, self.b = (p[0] if len(p) == 1 else torch.cat(p, dim=-2) for p in parts)
        else:
            self.a = self.b = torch.empty(0)
        # Without adapters the layer is called without a hook.
        if self._hook is not None and not mine:
            self._hook.remove()
            self._hook = None
        elif self._hook is None and mine and self.layer is not None:
            self._hook = self.layer.register_forward_hook(self)

    @property
    def used(self) -> bool:
        """Whether any row uses an adapter here."""
        return self._rows.use(self._layout)

    @property
    def mask(self) -> Tensor | None:
        """The mask (rows, ranks) of foreign ranks."""
        return self._rows.mask(self._layout, self.a.device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add each row's update to the OUTPUT of the layer (a forward hook)."""
        return self.add(inputs[0], output)

    def add(self, x: Tensor, output: Tensor) -> Tensor:
        """Add each row's update for X (rows, [...,] in) to OUTPUT (rows, [...,] out)."""
        if not self.used:
            return output
        inner = x.to(self.a.dtype) @ self.a.T
        if (mask := self.mask) is not None:
            mask = mask.view(len(mask), *(1,) * (x.ndim - 2), -1)
            inner = inner.masked_fill(mask, 0)
        if x.ndim == 2 and output.dtype == inner.dtype:
            return torch.addmm(output, inner, self.b)
        return (output + inner @ self.b).to(output.dtype)

    def expert_update(self, x: Tensor, mask: Tensor | None, expert: int) -> Tensor:
        """Return the update of EXPERT for X (tokens, in), with the foreign ranks of MASK."""
        inner = x.to(self.a.dtype) @ self.a[expert].T
        if mask is not None:
            inner = inner.masked_fill(mask, 0)
        return inner @ self.b[expert]


class MultiAdapterExperts(nn.Module):
    """The experts of one layer, each token computed with the adapter of its row."""

    def __init__(
        self, experts: nn.Module, up: AdapterStack, down: AdapterStack, rows: RowAdapters
    ) -> None:
        super().__init__()
        self.experts = experts
        self._up, self._down, self._rows = up, down, rows

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the CHOSEN experts, for HIDDEN (tokens, width)."""
        if not (self._up.used or self._down.used):
            return self.experts(hidden, chosen, weights)  # type: ignore[no-any-return]
        # All rows of a batch have the same length here: prompts are padded.
        row_of = torch.arange(len(hidden), device=hidden.device)
        row_of = row_of // (len(hidden) // len(self._rows.wanted))
        total = torch.zeros_like(hidden)
        for expert in torch.unique(chosen).tolist():
            token, place = torch.where(chosen == expert)
            rows = row_of[token]
            inner = self._one(self._up, hidden[token], expert, rows)
            inner = self._activate(inner)
            outer = self._one(self._down, inner, expert, rows)
            total.index_add_(0, token, (outer * weights[token, place, None]).to(total.dtype))
        return total

    def _activate(self, inner: Tensor) -> Tensor:
        experts: Any = self.experts
        gated = experts._apply_gate if experts.has_gate else experts.act_fn
        return gated(inner)  # type: ignore[no-any-return]

    def _one(self, stack: AdapterStack, x: Tensor, expert: int, rows: Tensor) -> Tensor:
        name = stack.name.rpartition(".")[2]
        weight: Tensor = getattr(self.experts, name)[expert]
        output = x @ (weight if self.experts.is_transposed else weight.T)
        if self.experts.has_bias:
            output = output + getattr(self.experts, f"{name}_bias")[expert]
        if not stack.used:
            return output
        mask = stack.mask
        mine = None if mask is None else mask[rows]
        return (output + stack.expert_update(x, mine, expert)).to(output.dtype)


def expert_inputs(module: nn.Module) -> str | None:
    """Return the name of the first weight of the experts in MODULE; None if it has none."""
    names = ("gate_up_proj", "up_proj")
    return next((name for name in names if isinstance(getattr(module, name, None), Tensor)), None)


def _transposed(experts: nn.Module, name: str) -> Tensor:
    """Return the weight NAME of EXPERTS as (experts, out, in)."""
    weight: Tensor = getattr(experts, name)
    return weight.transpose(1, 2) if experts.is_transposed else weight


class MultiAdapterNetwork(Network):
    """A base model that computes each row with its own adapter, on the shared base weights."""

    def __init__(self, base: nn.Module, *, mixed: bool = False) -> None:
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        skeleton = copy.deepcopy(base, shared)
        self._rows = RowAdapters()
        self._stacks: dict[str, AdapterStack] = {}
        for name, module in list(skeleton.named_modules()):
            leaf = name.rpartition(".")[2]
            if isinstance(module, nn.Linear) and leaf in ADAPTED:
                self._add_stack(name, module.weight, module)
            elif leaf == "experts" and (inputs := expert_inputs(module)):
                self._wrap_experts(skeleton, name, module, inputs)
        super().__init__(skeleton, mixed=mixed)
        self.kinds = cache_kinds(base.config)
        self.recurrent = any(kind.name == "recurrent" for kind in self.kinds)
        self._fused = self._fuse()
        first = next(base.parameters())
        self.device, self.dtype = first.device, first.dtype
        self._adapters: dict[Path, Adapter] = {}
        self._stacked: dict[Path, Adapter] = {}

    def _fuse(self) -> DecodeStep | None:
        """Return the fused decoding step, if the architecture has one."""
        if any(kind.name != "full" for kind in self.kinds):
            return None
        by_layer = {id(stack.layer): stack.add for stack in self._stacks.values() if stack.layer}
        try:
            return DecodeStep(self._decoder, lambda layer: by_layer[id(layer)])
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            log.info("decoding through transformers: %r", problem)
            return None

    @property
    def fused(self) -> bool:
        """Whether it decodes through the fused step."""
        return self._fused is not None

    def use_transformers(self) -> None:
        """Decode through transformers' own layers from now on."""
        self._fused = None

    def decode(self, tokens: Tensor, step: SlotStep) -> Tensor:
        """Return the last hidden states of one token per row, (rows,) -> (rows, width)."""
        if self._fused is not None:
            return self._fused(tokens, step)
        cache = StepCache(step, self.kinds)
        hidden = self.hidden(
            tokens[:, None],
            position_ids=step.positions[:, None],
            attention_mask=NO_MASK.to(tokens.device),
            past_key_values=cache,
            step_cache=cache,
            use_cache=True,
        )
        cache.finish()
        return hidden[:, 0]

    def _add_stack(self, name: str, weight: Tensor, layer: nn.Linear | None = None) -> AdapterStack:
        self._stacks[name] = AdapterStack(self._rows, name, tuple(weight.shape), layer)
        return self._stacks[name]

    def _wrap_experts(
        self, skeleton: nn.Module, name: str, experts: nn.Module, inputs: str
    ) -> None:
        up, down = (
            self._add_stack(f"{name}.{inner}", _transposed(experts, inner))
            for inner in (inputs, "down_proj")
        )
        parent = skeleton.get_submodule(name.rpartition(".")[0])
        parent.experts = MultiAdapterExperts(experts, up, down, self._rows)

    @property
    def bytes(self) -> int:
        """Bytes of adapters: each once, and once more where they are concatenated."""
        beside = sum(one.bytes for one in self._stacked.values()) if len(self._stacked) > 1 else 0
        return beside + sum(one.bytes for one in self._adapters.values())

    def is_loaded(self, folder: Path) -> bool:
        """Whether the adapter in FOLDER is in memory."""
        return folder in self._adapters

    def number(self, folder: Path | None) -> int:
        """Return the number of the adapter in FOLDER, which each reading of a file has anew."""
        return 0 if folder is None else self.load(folder).number

    @property
    def row_numbers(self) -> Sequence[int]:
        """The number of the adapter of each row."""
        return self._rows.wanted

    def load(self, folder: Path) -> Adapter:
        """Return the adapter in FOLDER; read it if it is not in memory."""
        adapter = self._adapters.pop(folder, None) or self._read(folder)
        # Ordered by last use.
        self._adapters[folder] = adapter
        return adapter

    def reload(self, folder: Path) -> None:
        """Read the adapter in FOLDER again if its file has changed since it was read.

        Open samples of this adapter continue with the new weights.
        """
        held = self._adapters.get(folder)
        if held is not None and _stamp(folder) not in (None, held.stamp):
            self._adapters[folder] = self._read(folder)

    def _read(self, folder: Path) -> Adapter:
        sizes = {name: stack.size for name, stack in self._stacks.items()}
        return Adapter(folder, sizes, self.device)

    def fits(self, using: Sequence[Path | None], folder: Path) -> bool:
        """Whether the adapter in FOLDER fits into a batch with the adapters USING it."""
        beside = {one for one in using if one is not None and one != folder}
        ranks = sum(self.load(one).rank for one in beside) + self.load(folder).rank
        return not beside or ranks <= MAX_RANKS

    def assign_rows(self, rows: Sequence[Path | None], beside: Sequence[Path | None] = ()) -> None:
        """Compute row i with the adapter ROWS[i] from now on; keep those BESIDE loaded."""
        wanted = {folder for folder in rows if folder is not None}
        stacked = sum(one.rank for one in self._stacked.values())
        needed = {folder: self.load(folder) for folder in sorted(wanted)}
        spare = stacked > 0 and 2 * sum(one.rank for one in needed.values()) <= stacked
        known = all(self._stacked.get(folder) is one for folder, one in needed.items())
        if not known or (spare and not beside):
            also = {one for one in beside if one is not None} - wanted
            self._restack(needed | {folder: self.load(folder) for folder in sorted(also)})
        self._rows.set([0 if folder is None else needed[folder].number for folder in rows])

    @contextmanager
    def only(self, row: int) -> Iterator[None]:
        """Compute with the adapter of ROW alone."""
        rows = self._rows.wanted
        self._rows.set(rows[row : row + 1])
        try:
            yield
        finally:
            self._rows.set(rows)

    def drop_idle(self, keep: int = 0) -> None:
        """Evict the adapters that are not in use, but the KEEP that were used last."""
        idle = [folder for folder in self._adapters if folder not in self._stacked]
        for folder in idle[: max(0, len(idle) - keep)]:
            del self._adapters[folder]

    def release(self) -> None:
        """Use no adapter until the next `assign_rows`."""
        self._rows.set([])
        self._restack({})

    def _restack(self, adapters: Mapping[Path, Adapter]) -> None:
        self._stacked = dict(adapters)
        for stack in self._stacks.values():
            stack.fill(list(adapters.values()))
        self.drop_idle(IDLE_ADAPTERS)
