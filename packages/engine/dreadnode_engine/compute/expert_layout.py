"""The layout of experts in adapter files: each expert's matrices under names of their own.

The engine computes with all experts of a layer as one parameter (`experts.gate_up_proj`), and PEFT
stacks their LoRA factors. Published weights of most models name each expert
(`experts.0.gate_proj`), and so do the adapters that other programs load.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from torch.nn.functional import pad

from dreadnode_engine.errors import OperationFailed

GATE, UP, DOWN = EXPERT_MODULES = ("gate_proj", "up_proj", "down_proj")
"""Names of one expert's layers in files."""
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.*)")


def peft_renames(model: nn.Module) -> bool:
    """Whether PEFT takes `gate_proj`, `up_proj` and `down_proj` in MODEL for names of experts."""
    config = LoraConfig(target_modules=[*EXPERT_MODULES])
    convert_peft_config_for_transformers(config, model, None)
    return bool(config.target_parameters)


def by_expert(factors: Iterable[tuple[str, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of experts one by one, by the names of PEFT's files.

    Args:
        factors: of each parameter that holds experts, as `factors_of` yields them: its name, `a`
            (experts, rank, in) and `b` (experts, rank, out).
    """
    tensors = {}
    for name, a, b in factors:
        path, _, inner = name.rpartition(".")
        # Gate and up are the two halves of one matrix: they share `a`, and `b` is cut.
        parts = zip((GATE, UP), b.chunk(2, dim=-1), strict=True)
        layers = dict(parts) if inner == "gate_up_proj" else {inner: b}
        for layer, update in layers.items():
            for expert in range(len(a)):
                prefix = f"base_model.model.{path}.{expert}.{layer}"
                # Copies, since a file cannot hold tensors that share memory.
                tensors[f"{prefix}.lora_A.weight"] = a[expert].clone()
                tensors[f"{prefix}.lora_B.weight"] = update[expert].T.contiguous()
    return tensors


def stacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return TENSORS, by the names of PEFT's files, with the experts of each layer in one tensor.

    Gate and up become one pair of factors: of the same rank where they share `lora_A`, as those
    that `by_expert` wrote, else of both ranks together.
    """
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[str, dict[int, Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := _EXPERT.fullmatch(name):
            path, expert, rest = match.groups()
            experts.setdefault(path, {}).setdefault(rest, {})[int(expert)] = tensor
        else:
            found[name] = tensor
    for path, parts in experts.items():
        factors = {rest: torch.stack([by[i] for i in sorted(by)]) for rest, by in parts.items()}
        for prefix, (a, b) in _pairs(path, factors).items():
            found[f"{prefix}.lora_A.weight"] = a.flatten(0, 1)
            # PEFT counts the ranks before the experts.
            found[f"{prefix}.lora_B.weight"] = b.permute(1, 2, 0).flatten(1)
    return found


def _pairs(path: str, factors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return `a` (experts, rank, in) and `b` (experts, out, rank) by the prefix of PEFT's names."""
    a, b = (
        {layer: factors.get(f"{layer}.lora_{x}.weight") for layer in EXPERT_MODULES} for x in "AB"
    )
    pairs = {}
    if (gate_a := a[GATE]) is not None and (up_a := a[UP]) is not None:
        gate_b, up_b = b[GATE], b[UP]
        if gate_b is None or up_b is None:
            raise OperationFailed(f"The adapter lacks `lora_B` of experts below `{path}`")
        if torch.equal(gate_a, up_a):
            pairs[f"{path}.base_layer"] = gate_a, torch.cat([gate_b, up_b], dim=1)
        else:
            # Each half of the outputs has ranks of its own.
            halves = pad(gate_b, (0, up_a.shape[1])), pad(up_b, (gate_a.shape[1], 0))
            pairs[f"{path}.base_layer"] = torch.cat([gate_a, up_a], dim=1), torch.cat(halves, dim=1)
    if (down_a := a[DOWN]) is not None and (down_b := b[DOWN]) is not None:
        pairs[path] = down_a, down_b
    return pairs
