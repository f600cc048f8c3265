"""Hosted Tinker's layout of adapters, converted to the one that PEFT reads.

Hosted Tinker exports the last layer as `unembed_tokens`, the experts of a layer as `experts.w1`
(gate), `w3` (up) and `w2` (down) in three dimensions, where factors that all experts share are
stored once, and the fused projection of linear attention as `in_proj_q`, `in_proj_k` and
`in_proj_v`. PEFT ignores names that it does not know.
"""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Pair = tuple[Tensor, Tensor]
"""`lora_A` (rank, in) and `lora_B` (out, rank) of one layer."""

_PREFIX = "base_model.model."
_EXPERTS = re.compile(r"(.*\.experts)\.(w[123])")
_SPLIT = re.compile(r"(.*)\.in_proj_([qkv])")
_EXPERT_NAMES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


class UnknownLayout(Exception):
    """A layout that cannot be converted; the message names the first such tensor."""


def is_hosted(names: set[str]) -> bool:
    """Whether tensors of these NAMES are in hosted Tinker's layout."""
    layers = {_layer(name) for name in names}
    return any(
        layer.endswith("unembed_tokens") or _EXPERTS.fullmatch(layer) or _SPLIT.fullmatch(layer)
        for layer in layers
    )


def to_peft(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, each_expert: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the configuration of an adapter in PEFT's layout.

    Args:
        tensors: as hosted Tinker exports them.
        config: with at least `r` and `lora_alpha`.
        each_expert: whether each expert has names of its own, or all experts of a layer are in
            one tensor.

    Raises:
        UnknownLayout: A tensor has another name or shape than this layout has.
    """
    found: dict[str, Pair] = {}
    experts: dict[str, dict[str, Pair]] = {}
    split: dict[str, dict[str, Pair]] = {}
    for layer, pair in _pairs(tensors).items():
        if match := _EXPERTS.fullmatch(layer):
            # Models without a gate have an empty tensor there.
            if pair[0].numel() or pair[1].numel():
                experts.setdefault(match[1], {})[_EXPERT_NAMES[match[2]]] = _of_experts(layer, pair)
        elif match := _SPLIT.fullmatch(layer):
            split.setdefault(match[1], {})[match[2]] = pair
        else:
            found[re.sub(r"(^|.*\.)unembed_tokens$", "lm_head", layer)] = pair
    for path, parts in split.items():
        if parts.keys() != {"q", "k", "v"}:
            raise UnknownLayout(f"`{path}` has only some of `in_proj_q`, `in_proj_k`, `in_proj_v`")
        found[f"{path}.in_proj_qkv"] = _joined([parts[part] for part in "qkv"])
    parameters: set[str] = set()
    for path, by_name in experts.items():
        if each_expert:
            for name, (a, b) in by_name.items():
                found |= {f"{path}.{i}.{name}": (a[i], b[i]) for i in range(len(a))}
        else:
            found |= _stacked(path, by_name)
            parameters |= {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    named = {
        f"{_PREFIX}{layer}.lora_{x}.weight": part.contiguous().clone()
        for layer, pair in found.items()
        for x, part in zip("AB", pair, strict=True)
    }
    return named, _config(found, config, parameters)


def _layer(name: str) -> str:
    return re.sub(r"\.lora_[AB]\.weight$", "", name.removeprefix(_PREFIX))


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
    layers = {}
    for name in tensors:
        layer = _layer(name)
        a = tensors.get(f"{_PREFIX}{layer}.lora_A.weight")
        b = tensors.get(f"{_PREFIX}{layer}.lora_B.weight")
        if a is None or b is None:
            raise UnknownLayout(f"`{name}` is not one of two LoRA factors")
        layers[layer] = a, b
    return layers


def _of_experts(layer: str, pair: Pair) -> Pair:
    """Return the factors (experts, rank, in) and (experts, out, rank), shared ones repeated."""
    a, b = pair
    if a.ndim != 3 or b.ndim != 3 or len({len(a), len(b)} - {1}) > 1:
        raise UnknownLayout(f"`{layer}` has shapes {tuple(a.shape)} and {tuple(b.shape)}")
    experts = max(len(a), len(b))
    return a.expand(experts, -1, -1), b.expand(experts, -1, -1)


def _joined(parts: list[Pair]) -> Pair:
    """Return one pair for layers whose outputs follow one another: with the ranks of all."""
    before = list(accumulate((len(a) for a, _ in parts), initial=0))
    after = [before[-1] - end for end in before[1:]]
    wide = [pad(b, sides) for (_, b), *sides in zip(parts, before, after, strict=False)]
    return torch.cat([a for a, _ in parts]), torch.cat(wide)


def _stacked(path: str, by_name: Mapping[str, Pair]) -> dict[str, Pair]:
    """Return the pairs of PEFT for two parameters that hold all experts."""
    if by_name.keys() != set(_EXPERT_NAMES.values()):
        raise UnknownLayout(f"`{path}` lacks factors of gate, up or down")
    gate, up, down = (by_name[name] for name in _EXPERT_NAMES.values())
    halves = [_joined([g, u]) for g, u in zip(_each(gate), _each(up), strict=True)]
    both = torch.stack([a for a, _ in halves]), torch.stack([b for _, b in halves])
    return {
        f"{layer}": (a.flatten(0, 1), b.permute(1, 2, 0).flatten(1))
        # PEFT wraps the parameters of one module inside one another.
        for layer, (a, b) in {f"{path}.base_layer": both, path: down}.items()
    }


def _each(pair: Pair) -> list[Pair]:
    return list(zip(*pair, strict=True))


def _config(
    found: Mapping[str, Pair], config: Mapping[str, Any], parameters: set[str]
) -> dict[str, Any]:
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    modules = {layer for layer in found if not layer.endswith((".experts", ".base_layer"))}
    ranks = {layer.rpartition(".")[2]: len(found[layer][0]) for layer in modules}
    patterns = {leaf: found_rank for leaf, found_rank in ranks.items() if found_rank != rank}
    if parameters:
        patterns["gate_up_proj"] = 2 * rank
    return {
        **config,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "target_parameters": sorted(parameters) or None,
        "rank_pattern": patterns,
        # The scale, alpha by rank, stays that of the configuration.
        "alpha_pattern": {leaf: alpha * other / rank for leaf, other in patterns.items()},
    }
