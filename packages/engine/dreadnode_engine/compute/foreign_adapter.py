"""Adapters that another program trained: checked, and converted to adapters of this engine.

A LoRA layer adds `scale * B @ A` to its weight. The scale of this engine is ALPHA / rank. That of
another adapter is alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023); the
difference goes into B, so that the sum stays the same.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreadnode_engine.compute.adapters import (
    ALPHA,
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    initial_tensors,
    without_variant,
)
from dreadnode_engine.compute.expert_layout import EXPERT_MODULES, stacked
from dreadnode_engine.errors import OperationFailed, Refused

UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "layer_replication"),
    *("rank_pattern", "alpha_pattern", "trainable_token_indices", "alora_invocation_tokens"),
    "fan_in_fan_out",
)
"""Settings of PEFT that change what an adapter computes, or which layers it holds."""
OTHER_BASES = ("pissa", "olora", "corda", "loftq")
"""Starts of `init_lora_weights` that change the base weights as well."""
_FACTOR = re.compile(r"(.*)\.lora_[AB]\.weight")
_EXPERT = re.compile(r"(.*\.experts)\.\d+\.(.*)")
_OF_EXPERT = {f"{layer}.lora_{x}.weight" for layer in EXPERT_MODULES for x in "AB"}


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter of another program, as one of this engine.

    Attributes:
        tensors: by the names of PEFT's files.
        new_layers: the last parts of the names of layers that it was not trained on.
    """

    tensors: Mapping[str, Tensor]
    new_layers: tuple[str, ...]


def read_foreign(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], base_model: str, rank: int, seed: int
) -> ForeignAdapter:
    """Return the adapter in FOLDER.

    Layers that the adapter was not trained on are new: A is initialized from SEED, and B is zero.

    Args:
        folder: with PEFT's two files.
        shapes: of the tensors of an adapter of this engine, by name.
        base_model: the model that the adapter is for.
        rank: of the adapter.
        seed: initializes the layers that it does not have.

    Raises:
        Refused: it is not an adapter of this base model, or this engine cannot train it.
    """
    config = _read_config(folder)
    check_base(config, base_model)
    if config.get("r") != rank:
        raise Refused(
            f"The adapter has the rank {config.get('r')}, and {rank} was requested; request "
            "the adapter's own rank"
        )
    scale = _scale(config, rank)
    found = _read_tensors(folder, {name.partition(".lora_")[0] for name in shapes})
    _check_shapes(found, shapes, base_model)
    _check_missing(found.keys(), shapes.keys(), config)
    own_scale = ALPHA / rank
    tensors = initial_tensors({n: s for n, s in shapes.items() if n not in found}, seed)
    for name, tensor in found.items():
        whole = tensor.float()
        tensors[name] = whole * (scale / own_scale) if ".lora_B." in name else whole
        if not tensors[name].isfinite().all():
            raise Refused(f"The adapter's weights of `{_layer(name)}` are not all finite numbers")
    new = {_layer(name).rpartition(".")[2] for name in shapes if name not in found}
    ordered = {name: tensors[name] for name in shapes}
    return ForeignAdapter(ordered, tuple(sorted(new)))


def check_base(config: Mapping[str, Any], base_model: str) -> None:
    """Return if an adapter with CONFIG may be one of BASE_MODEL, by the name that it states.

    Folders and copies of a model have other names; their last part must be the same.

    Raises:
        Refused: it states the name of another model.
    """
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return
    if _last_part(named) != _last_part(without_variant(base_model)):
        raise Refused(
            f"The adapter was trained on `{named[:200]}`, and this run is on `{base_model}`; "
            "choose that model, or if both have the same weights, correct "
            f"`base_model_name_or_path` in {CONFIG_FILE}"
        )


def _last_part(name: str) -> str:
    # The Hugging Face cache keeps `ORG/NAME` as `models--ORG--NAME/snapshots/HASH`.
    if cached := re.search(r"models--[^/\\]*--([^/\\]+)", name):
        return cached[1].lower()
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (ValueError, RecursionError):
        raise Refused(f"{CONFIG_FILE} is not JSON") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Refused(f"{CONFIG_FILE} is not that of a LoRA adapter of PEFT")
    used = [name for name in UNSUPPORTED if config.get(name)]
    if config.get("bias") not in (None, "none"):
        used.append("bias")
    if used:
        raise Refused(
            f"The adapter uses `{used[0]}`, which this engine does not train; merge the adapter "
            "into its base model, or train one without it"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(OTHER_BASES):
        raise Refused(
            f"The adapter was initialized with `{start}`, which changes the base weights too; "
            "convert it with PEFT's `path_initial_model_for_weight_conversion`"
        )
    return config


def _scale(config: Mapping[str, Any], rank: int) -> float:
    alpha = config.get("lora_alpha")
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not 0 < alpha < math.inf:  # type: ignore[operator]
        raise Refused(f"`lora_alpha` in {CONFIG_FILE} must be a number above 0")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)  # type: ignore[arg-type]


def _read_tensors(folder: Path, layers: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors in FOLDER, those of experts stacked; all are LoRA factors of LAYERS."""
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as problem:
        raise Refused(f"{WEIGHTS_FILE} is not a readable file of safetensors: {problem}") from None
    if not tensors:
        raise Refused(f"{WEIGHTS_FILE} is empty")
    experts: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        if of_expert := _EXPERT.fullmatch(name):
            experts.setdefault(of_expert[1], set()).add(of_expert[2])
        elif not (factor := _FACTOR.fullmatch(name)) or factor[1] not in layers:
            # PEFT adds weights of the base model where `lm_head` is trained.
            whole = name.endswith((".embed_tokens.weight", ".base_layer.weight"))
            remedy = "; save it with `save_embedding_layers=False`" if whole else ""
            raise Refused(
                f"The adapter holds `{name[:200]}`, which is not a LoRA factor of a layer that "
                f"this engine trains in the base model{remedy}"
            )
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1:
            raise Refused(f"The tensor `{name}` has the type {tensor.dtype}; save it as float32")
    for path, names in experts.items():
        if path not in layers or names != _OF_EXPERT:
            odd = min(names ^ _OF_EXPERT, default="")
            raise Refused(
                f"The experts of the adapter below `{path.removeprefix(PREFIX)}` are not those of "
                f"this base model, or differ by `{odd}`; each expert has factors of "
                f"{', '.join(EXPERT_MODULES)}"
            )
    try:
        return stacked(tensors)
    except (OperationFailed, RuntimeError, ValueError, IndexError) as problem:
        raise Refused(f"The adapter's experts do not belong together: {problem}") from None


def _check_shapes(
    found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], base_model: str
) -> None:
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(shapes.get(name, ())):
            raise Refused(
                f"`{name.removeprefix(PREFIX)}` has the shape {list(tensor.shape)}, and an adapter "
                f"of `{base_model}` has {list(shapes.get(name, ()))} there; it was trained on "
                "another base model or with another rank"
            )


def _check_missing(
    found: Collection[str], expected: Collection[str], config: Mapping[str, Any]
) -> None:
    """Refuse an adapter without weights of a layer that it was trained on."""
    layers = {_layer(name) for name in found}
    leaves = {layer.rpartition(".")[2] for layer in layers}
    missing = [
        name
        for name in expected
        if name not in found
        and (_layer(name) in layers or _is_target(_layer(name), leaves, config))
    ]
    if missing:
        rest = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise Refused(
            f"The adapter lacks `{missing[0].removeprefix(PREFIX)}`{rest}, although it was trained "
            "on that layer; save it again as a whole"
        )


def _layer(name: str) -> str:
    return name.removeprefix(PREFIX).partition(".lora_")[0]


def _is_target(layer: str, leaves: Collection[str], config: Mapping[str, Any]) -> bool:
    """Whether PEFT adapted LAYER, by what CONFIG says of the layers.

    A regular expression of a client may take for ever, so there LEAVES, the last parts of the
    names of layers with weights, decide.
    """
    targets = config.get("target_modules")
    if isinstance(targets, str):
        return targets == "all-linear" or layer.rpartition(".")[2] in leaves
    names = [each for each in targets or () if isinstance(each, str)]
    if ".experts" in layer:
        return bool(config.get("target_parameters")) or not {*EXPERT_MODULES}.isdisjoint(names)
    return any(layer == name or layer.endswith(f".{name}") for name in names)
