"""The updates of an adapter: one pair of factors for each layer, experts one by one."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreadnode_engine.compute.adapters import CONFIG_FILE, PREFIX, WEIGHTS_FILE, factors_of
from dreadnode_engine.compute.expert_layout import by_expert
from dreadnode_engine.errors import Refused
from dreadnode_engine.exports.base_files import expert_count

_A, _B = ".lora_A.weight", ".lora_B.weight"
INTERLEAVED = ("gpt_oss",)
"""Model types whose experts have the rows of gate and up in turns."""
GATELESS = ("nemotron_h",)
"""Model types whose experts have no gate."""


OTHER_NAMES = ("inkling_text", "inkling2_text", "deepseek_v4")
"""Model types whose published weights have other names than the layers of transformers."""


@dataclass(frozen=True)
class Update:
    """The update of one layer: its weight grows by `scale` * `b` @ `a`.

    Attributes:
        layer: Path of the layer, as published weights name it.
        a: (rank, in).
        b: (out, rank).
    """

    layer: str
    a: Tensor
    b: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the layer's weight, (out, in)."""
        return len(self.b), self.a.shape[1]


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was read from a folder."""

    folder: Path
    config: Mapping[str, Any]
    updates: tuple[Update, ...]

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        return max(len(update.a) for update in self.updates)


def read(folder: Path, model: Mapping[str, Any]) -> AdapterFile:
    """Read the adapter in FOLDER, of a base model with the configuration MODEL.

    Raises:
        Refused: It is not a LoRA adapter in PEFT's layout.
    """
    if model.get("model_type") in OTHER_NAMES:
        raise Refused(
            f"Adapters of `{model['model_type']}` are not exported, since its published weights "
            "have other names than its layers; PEFT loads the downloaded adapter as it is"
        )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise Refused(f"{folder} holds no readable LoRA adapter: {problem}") from problem
    for feature in ("use_dora", "use_rslora", "modules_to_save"):
        if config.get(feature):
            raise Refused(f"The adapter in {folder} uses `{feature}`, which exports do not support")
    tensors = _one_by_one(tensors, model)
    updates = []
    for name in sorted(tensors):
        layer = name.removeprefix(PREFIX).removesuffix(_A).removesuffix(_B)
        if not {f"{PREFIX}{layer}{_A}", f"{PREFIX}{layer}{_B}"} <= tensors.keys():
            raise Refused(
                f"The adapter in {folder} holds `{name}`, which is not one of two LoRA factors; "
                "download it again, since the server converts the layouts that it knows"
            )
        if name.endswith(_A):
            a, b = tensors[name].float(), tensors[f"{PREFIX}{layer}{_B}"].float()
            if not (a.isfinite().all() and b.isfinite().all()):
                raise Refused(f"The weights of `{layer}` in {folder} are not all finite numbers")
            of_layer = _pattern(config.get("alpha_pattern"), layer, alpha)
            ranks = _pattern(config.get("rank_pattern"), layer, rank)
            updates.append(Update(layer, a, b, of_layer / ranks))
    if not updates:
        raise Refused(f"The adapter in {folder} is empty")
    return AdapterFile(folder, config, tuple(updates))


def _pattern(patterns: Mapping[str, float] | None, layer: str, default: float) -> float:
    """Return the value of the first of PEFT's PATTERNS that matches LAYER."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _one_by_one(tensors: dict[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return TENSORS with each expert under its own names."""
    together = {
        n: t for n, t in tensors.items() if re.search(r"\.experts\.(base_layer\.)?lora_", n)
    }
    if not together:
        return tensors
    if model.get("model_type") in INTERLEAVED:
        raise Refused(
            f"Experts of `{model['model_type']}` are not exported; the downloaded adapter is for "
            "PEFT, and `tinker_cookbook.weights.build_hf_model` merges adapters of this model"
        )
    experts = expert_count(model)
    hidden = model.get("hidden_size") or 0
    inner = model.get("moe_intermediate_size") or model.get("intermediate_size") or 0
    sizes = {}
    for name in together:
        path = name.removeprefix(PREFIX).partition(".experts.")[0] + ".experts"
        up = ("up_proj", 1) if model.get("model_type") in GATELESS else ("gate_up_proj", 2)
        sizes[f"{path}.{up[0]}"] = (experts, up[1] * inner, hidden)
        sizes[f"{path}.down_proj"] = (experts, hidden, inner)
    rest = {name: tensor for name, tensor in tensors.items() if name not in together}
    return rest | by_expert(factors_of(together, sizes, 1.0))
