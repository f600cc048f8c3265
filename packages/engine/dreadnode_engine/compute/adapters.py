"""LoRA adapters as plain tensors, and the PEFT model that they are bound into.

The base weights exist once. For every LoRA shape in use there is one light copy of the module
tree that shares those weights, wrapped by PEFT; a run is a dictionary of tensors, and training
or sampling with it means pointing the wrapper's LoRA modules at them. Switching between runs
therefore copies nothing, and a run can be snapshotted, evicted and brought back on its own.
"""

import copy
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft import __version__ as peft_version
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dreadnode_engine.compute.expert_layout import (
    EXPERT_MODULES,
    by_expert,
    peft_renames,
    stacked,
)
from dreadnode_engine.errors import OperationFailed

ALPHA = 32
"""`lora_alpha` of every adapter: the scale is ALPHA / rank. The protocol has no field for it, and
32 is the value that tinker-cookbook assumes of hosted Tinker."""

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
LANGUAGE_MODEL = "model.language_model."
"""Names of layers start with this where a vision model has other towers beside them."""

_ATTENTION = {"q_proj", "k_proj", "v_proj", "r_proj", "o_proj", "qkv_proj"}
_LATENT = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "kv_proj", "o_b_proj"}
_RECURRENT = {"in_proj_qkv", "in_proj_z", "in_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "gate_up_proj"}
_MIXERS = _ATTENTION | _LATENT | _RECURRENT
_MIXER_ENDS = ("linear_attn.out_proj", "self_attn.gate_proj")
PROJECTIONS = frozenset(_MIXERS | _MLP | {"out_proj"})
"""Names of the linear layers of attention, recurrent layers and MLP."""
ADAPTED = PROJECTIONS | {"lm_head"}
"""Names of the linear layers that an adapter may train."""


@dataclass(frozen=True)
class LoraShape:
    """The rank of an adapter and the layers that it trains."""

    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool


class PeftWrapper:
    """A base model wrapped by PEFT for one LoRA shape. Adapters are bound into it."""

    def __init__(self, base: nn.Module, shape: LoraShape) -> None:
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        skeleton = copy.deepcopy(base, shared)
        targets = lora_targets(base, shape)
        self.config = lora_config(targets, shape)
        with warnings.catch_warnings(), _unrenamed(skeleton):
            # PEFT warns that merging would untie a tied unembedding; nothing is merged here.
            warnings.simplefilter("ignore")
            model: PeftModel = get_peft_model(skeleton, self.config)
        model.eval()
        self.causal_lm = model.get_base_model()
        for layer in model.modules():
            # Only the layer's own flag turns checkpointing on; modules inside it stay in eval mode.
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                layer.training = True
        self._slots = dict(_slots(model))
        self.shapes = {name: module.weight.size() for name, module in self._slots.items()}
        _check_targets(targets, shape.rank, self.shapes)
        self._targets = targets
        self._renamed = peft_renames(base)
        self.device = next(base.parameters()).device
        halved = any(weight.dtype == torch.bfloat16 for weight in base.parameters())
        self.base_dtype = "bfloat16" if halved else "float32"

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute with TENSORS, which have the names of PEFT's files."""
        for name, module in self._slots.items():
            module._parameters["weight"] = tensors[name]  # type: ignore[assignment]

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return a new adapter: A is Kaiming-uniform from SEED, B is zero (Hu et al. 2021)."""
        tensors = initial_tensors(self.shapes, seed)
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def save(self, tensors: Mapping[str, Tensor], folder: Path, base_model: str) -> None:
        """Write TENSORS into FOLDER as an adapter of BASE_MODEL, as `load` reads it."""
        self._write(tensors, copy.copy(self.config), folder, base_model)

    def export(self, tensors: Mapping[str, Tensor], folder: Path, base_model: str) -> None:
        """Write TENSORS into FOLDER as others load them: each expert under its own names.

        PEFT 0.18 to 0.21, vLLM and llama.cpp's converter read that layout of experts; stacked
        experts are read by the PEFT that wrote them only. PEFT takes the names of ordinary MLPs
        beside experts for those of experts, so these are named as parameters, and then the experts
        stay stacked.
        """
        config = copy.copy(self.config)
        experts = {n: t for n, t in tensors.items() if ".experts." in n}
        if experts and self._renamed:
            names = self._targets.modules
            mlps = {name for name in names if name.rpartition(".")[2] in EXPERT_MODULES}
            modules = set(config.target_modules or ()) - set(EXPERT_MODULES)
            if mlps:
                config.target_modules = modules
                weights = {f"{name}.weight" for name in mlps}
                config.target_parameters = [*(config.target_parameters or ()), *weights]
            else:
                factors = factors_of(experts, self._targets.parameters, 1.0)
                tensors = {n: t for n, t in tensors.items() if n not in experts}
                tensors |= by_expert(factors)
                config.target_parameters = None
                config.target_modules = {*modules, *EXPERT_MODULES}
        self._write(tensors, config, folder, base_model)

    def _write(
        self, tensors: Mapping[str, Tensor], config: LoraConfig, folder: Path, base_model: str
    ) -> None:
        config.inference_mode = True
        if any(name.startswith(LANGUAGE_MODEL) for name in self._targets.modules):
            # PEFT would adapt layers with the same names in other towers too.
            config.exclude_modules = r"model\.(?!language_model\.).*"
        config.base_model_name_or_path = without_variant(base_model)
        # PEFT keeps these as sets, which each process would write in another order.
        config.target_modules = sorted(config.target_modules or ())
        if config.target_parameters:
            config.target_parameters = sorted(config.target_parameters)
        config.save_pretrained(folder)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"format": "pt", "base_dtype": self.base_dtype}
        save_file(whole, folder / WEIGHTS_FILE, metadata=metadata)
        _sort_metadata(folder / WEIGHTS_FILE)

    def load(self, folder: Path) -> dict[str, Tensor]:
        """Read the adapter in FOLDER, in the order of this wrapper's modules."""
        tensors = stacked(load_file(folder / WEIGHTS_FILE))
        if {name: tensor.shape for name, tensor in tensors.items()} != self.shapes:
            raise OperationFailed("The saved adapter does not fit this base model")
        # Sums over all parameters, such as the gradient norm, add in the order of this dictionary:
        # it comes from the modules, never from the file. The copies are aligned, as kernels may add
        # in another order where the alignment differs.
        return {name: tensors[name].to(self.device, copy=True) for name in self.shapes}


def initial_tensors(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Return a new adapter of SHAPES on the CPU, as `PeftWrapper.initial` describes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(tuple(shape))
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        tensors[name] = tensor
    return tensors


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file: each save has another random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":")).encode().ljust(size))


@dataclass(frozen=True)
class LoraTargets:
    """What an adapter trains in a base model.

    Attributes:
        modules: paths of the linear layers.
        names: ends of these paths, which no other layer has.
        parameters: sizes of three-dimensional parameters, which hold all experts, by path.
    """

    modules: frozenset[str]
    names: frozenset[str]
    parameters: Mapping[str, tuple[int, ...]]


def lora_targets(base: nn.Module, shape: LoraShape) -> LoraTargets:
    """Return what an adapter of SHAPE trains in the model BASE.

    Experts that are one three-dimensional parameter per layer are no modules; PEFT adapts such
    parameters directly, and they count as part of the MLP. Compressors and indexers are not
    trained.
    """
    modules, others, parameters = set(), set(), {}
    for name, module in base.named_modules():
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.Linear):
            # PEFT refuses `out_proj` of Mamba-2: fused kernels would skip its adapter.
            mixer = leaf in _MIXERS or name.endswith(_MIXER_ENDS)
            wanted = (
                (mixer and shape.train_attn)
                or (leaf in _MLP and not mixer and shape.train_mlp)
                or (name == "lm_head" and shape.train_unembed)
            )
            if wanted and ".compressor." not in name:
                modules.add(name)
            else:
                others.add(leaf)
        elif leaf == "experts" and shape.train_mlp:
            for inner, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3 and inner in _MLP:
                    parameters[f"{name}.{inner}"] = tuple(parameter.shape)
    if not modules and not parameters:
        raise OperationFailed(
            "The adapter has nothing to train; turn on train_mlp, train_attn or train_unembed"
        )
    names = {_end_of(name, 2 if name.rpartition(".")[2] in others else 1) for name in modules}
    return LoraTargets(frozenset(modules), frozenset(names), parameters)


def _end_of(path: str, parts: int) -> str:
    return ".".join(path.split(".")[-parts:])


def lora_config(targets: LoraTargets, shape: LoraShape) -> LoraConfig:
    """Return PEFT's configuration of an adapter of SHAPE with TARGETS."""
    parameters = {_end_of(name, 3) for name in targets.parameters}
    return LoraConfig(
        r=shape.rank,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted(targets.names),
        target_parameters=sorted(parameters) or None,
        task_type="CAUSAL_LM",
    )


@contextmanager
def _unrenamed(model: nn.Module) -> Iterator[None]:
    """Let PEFT take the names of layers as they are.

    By the model's type, PEFT 0.21 takes `gate_proj`, `up_proj` and `down_proj` of MoE models for
    names of transformers 4 and moves them to the experts: dense and shared MLPs with these names
    would get no LoRA weights, and the experts twice the rank.
    """
    config: Any = model.config
    kind = config.model_type
    config.model_type = ""
    try:
        yield
    finally:
        config.model_type = kind


def _check_targets(targets: LoraTargets, rank: int, shapes: Mapping[str, Sequence[int]]) -> None:
    """Fail if PEFT gave LoRA weights to other layers than TARGETS, or another rank than RANK."""
    got = {
        name.removeprefix(PREFIX).removesuffix(".lora_A.weight"): size[0]
        for name, size in shapes.items()
        if name.endswith(".lora_A.weight")
    }
    expected = dict.fromkeys(targets.modules, rank)
    for name, size in sorted(targets.parameters.items()):
        # PEFT wraps the parameters of one module inside one another.
        path = name.rpartition(".")[0]
        while path in expected:
            path += ".base_layer"
        expected[path] = rank * size[0]
    wrong = sorted(
        name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name)
    )
    if wrong:
        raise OperationFailed(
            f"PEFT {peft_version} does not adapt the layers of this model as requested "
            f"({len(wrong)} differ, such as `{wrong[0]}`), so it cannot be trained here",
            category="server",
        )


def without_variant(model_id: str) -> str:
    """Return the name that the weights of MODEL_ID have: without `:peft:TOKENS` of the catalog."""
    return re.sub(r":peft:\d+$", "", model_id)


def _slots(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the modules with LoRA weights, by the names that they have in PEFT's files."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith((".lora_A.default", ".lora_B.default")):
            yield f"{name.removesuffix('.default')}.weight", module


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], int, float]:
    """Return the tensors of the adapter in FOLDER by name, its rank, and its scale."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    rank = int(config["r"])
    return stacked(load_file(folder / WEIGHTS_FILE)), rank, float(config["lora_alpha"]) / rank


def factors_of(
    tensors: Mapping[str, Tensor], sizes: Mapping[str, Sequence[int]], scale: float
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the layers that TENSORS adapt, with their factors; `x @ a.T @ b` is the update.

    Args:
        tensors: an adapter, by the names of PEFT's files.
        sizes: the shape of every weight that can be adapted, by its name in the model.
        scale: multiplies the update; `b` includes it.

    Yields:
        The weight's name, `a` (rank, in) and `b` (rank, out); both with the experts in front
        for a weight that holds several.
    """
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        path = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        # PEFT wraps experts once per weight, nested; only their sizes differ.
        path = path.removesuffix(".base_layer")
        found = [path, *(f"{path}.{name}" for name in ("gate_up_proj", "up_proj", "down_proj"))]
        layer = next(
            (n for n in found if tuple(sizes.get(n, ())[-2:]) == (b.shape[0], a.shape[1])), None
        )
        if layer is None:
            raise OperationFailed("The saved adapter does not fit this base model")
        if len(sizes[layer]) == 3:
            experts = sizes[layer][0]
            a = a.reshape(experts, -1, a.shape[1])
            yield layer, a, b.reshape(b.shape[0], -1, experts).permute(2, 1, 0) * scale
        else:
            yield layer, a, b.T * scale
