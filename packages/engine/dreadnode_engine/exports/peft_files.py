"""An adapter as PEFT's two files, for PEFT itself or for vLLM."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from dreadnode_engine.compute.adapters import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from dreadnode_engine.errors import Refused
from dreadnode_engine.exports.base_files import BaseFiles
from dreadnode_engine.exports.merged import HEAD, plan
from dreadnode_engine.exports.updates import AdapterFile, Update

VLLM_TYPES = {"llama": True, "qwen2": False, "qwen3": False, "qwen3_moe": False}
"""Model types whose layers vLLM adapts under these names, and whether `lm_head` is one of them."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `--max-lora-rank`."""


def write(adapter: AdapterFile, base: BaseFiles, to: Path, base_model: str) -> None:
    """Write the adapter into the folder TO as PEFT loads it.

    Raises:
        Refused: It does not fit the base model.
    """
    plan(adapter, base)
    save_file(
        load_file(adapter.folder / WEIGHTS_FILE), to / WEIGHTS_FILE, metadata={"format": "pt"}
    )
    _write_config(to, {**adapter.config, "base_model_name_or_path": base_model})


def write_for_vllm(adapter: AdapterFile, base: BaseFiles, to: Path, base_model: str) -> None:
    """Write the adapter into the folder TO as vLLM loads it: one rank and one scale for all layers.

    Raises:
        Refused: It does not fit the base model, or vLLM would not apply all of it.
    """
    plan(adapter, base)
    if base.model_type not in VLLM_TYPES:
        raise Refused(
            f"It is not known here whether vLLM applies LoRA to all layers of `{base.model_type}`; "
            "export `--format merged` and serve that"
        )
    if any(update.layer == HEAD for update in adapter.updates) and (
        base.tied or not VLLM_TYPES[base.model_type]
    ):
        reason = "is tied to the embeddings" if base.tied else "takes no LoRA in vLLM"
        raise Refused(
            f"The adapter trains `lm_head`, which {reason} for `{base.model_type}`; export "
            "`--format merged`, or train with `--no-train-unembed`"
        )
    if adapter.rank > VLLM_RANKS[-1]:
        raise Refused(
            f"vLLM serves adapters up to rank {VLLM_RANKS[-1]}, and this one has "
            f"{adapter.rank}; export `--format merged`"
        )
    updates = list(adapter.updates)
    config = dict(adapter.config)
    if len({(len(update.a), update.scale) for update in updates}) > 1:
        updates = [_padded(update, adapter.rank) for update in updates]
        config["r"] = config["lora_alpha"] = adapter.rank
    _save(updates, config, to, base_model)


def max_lora_rank(rank: int) -> int:
    """Return the smallest `--max-lora-rank` of vLLM that holds RANK."""
    return next(each for each in VLLM_RANKS if each >= rank)


def _padded(update: Update, rank: int) -> Update:
    """Return UPDATE with RANK, filled up with zeros, and with its scale in `b`."""
    more = rank - len(update.a)
    return Update(
        update.layer, pad(update.a, (0, 0, 0, more)), pad(update.b * update.scale, (0, more)), 1.0
    )


def _save(updates: list[Update], config: dict[str, Any], to: Path, base_model: str) -> None:
    tensors: dict[str, Tensor] = {}
    for update in updates:
        for letter, part in (("A", update.a), ("B", update.b)):
            tensors[f"{PREFIX}{update.layer}.lora_{letter}.weight"] = part.contiguous().clone()
    save_file(tensors, to / WEIGHTS_FILE, metadata={"format": "pt"})
    changes: dict[str, Any] = {
        "base_model_name_or_path": base_model,
        "target_modules": sorted({update.layer.rpartition(".")[2] for update in updates}),
        "target_parameters": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    _write_config(to, config | changes)


def _write_config(to: Path, config: dict[str, Any]) -> None:
    (to / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
