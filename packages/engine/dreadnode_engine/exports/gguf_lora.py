"""A LoRA adapter as a GGUF file, with the names and the order of rows that llama.cpp has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from dreadnode_engine.errors import Refused
from dreadnode_engine.exports.base_files import BaseFiles
from dreadnode_engine.exports.merged import HEAD, plan
from dreadnode_engine.exports.updates import AdapterFile, Update

FILE = "adapter.gguf"
ARCHITECTURES: Mapping[str, Any] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
}
"""llama.cpp's architecture of each model type whose names and rows are known here."""
Pair = tuple[Tensor, Tensor]


def write(adapter: AdapterFile, base: BaseFiles, to: Path) -> None:
    """Write the adapter into the folder TO.

    Raises:
        Refused: The adapter does not fit, or llama.cpp could not apply all of it.
    """
    plan(adapter, base)
    architecture = ARCHITECTURES.get(base.model_type)
    if architecture is None:
        raise Refused(
            f"llama.cpp's names for `{base.model_type}` are not known here; export `--format "
            "merged` and convert it with llama.cpp's `convert_hf_to_gguf.py`"
        )
    names = gguf.get_tensor_name_map(architecture, int(base.config["num_hidden_layers"]))
    pairs = _by_name(adapter, base, names)
    writer = gguf.GGUFWriter(to / FILE, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / rank: `b` holds the scale, so alpha is the rank.
    ranks = {a.shape[-2] for a, _ in pairs.values()}
    alpha = float(max(ranks))
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, (a, b) in sorted(pairs.items()):
        scaled = b * (a.shape[-2] / alpha)
        writer.add_tensor(f"{name}.lora_a", a.contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", scaled.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _by_name(adapter: AdapterFile, base: BaseFiles, names: Any) -> dict[str, Pair]:
    """Return the factors by llama.cpp's names; `b` includes the scale."""
    found: dict[str, Pair] = {}
    experts: dict[str, dict[int, Pair]] = {}
    for update in adapter.updates:
        layer, number = _without_expert(update.layer)
        if layer == HEAD and base.tied:
            raise Refused(
                "llama.cpp has one matrix for the embeddings and the last layer of this model, so "
                "it cannot apply the adapter's `lm_head`; export `--format merged`, or train with "
                "`--no-train-unembed`"
            )
        name = names.get_name(f"{layer}.weight", try_suffixes=(".weight",))
        if name is None:
            raise Refused(f"llama.cpp has no name for `{layer}`; export `--format merged`")
        pair = update.a, _rows(update, base) * update.scale
        if number is None:
            found[name] = pair
        else:
            experts.setdefault(name, {})[number] = pair
    for name, by_number in experts.items():
        if sorted(by_number) != list(range(base.experts)):
            raise Refused(
                f"The adapter lacks experts of `{name}`, and llama.cpp needs all of a layer"
            )
        pairs = [by_number[number] for number in sorted(by_number)]
        found[name] = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
    return found


def _without_expert(layer: str) -> tuple[str, int | None]:
    head, separator, tail = layer.partition(".experts.")
    if not separator:
        return layer, None
    number, _, leaf = tail.partition(".")
    return f"{head}.experts.{leaf}", int(number)


def _rows(update: Update, base: BaseFiles) -> Tensor:
    """Return `b` with its rows in llama.cpp's order.

    llama.cpp rotates pairs of neighbouring rows in Llama models, where transformers rotates the two
    halves of each head (Su et al. 2021 allow both): row `i` and `i + width/2` become neighbours.
    """
    leaf = update.layer.rpartition(".")[2]
    if base.model_type != "llama" or leaf not in ("q_proj", "k_proj"):
        return update.b
    heads = int(base.config["num_attention_heads"])
    if leaf == "k_proj":
        heads = int(base.config.get("num_key_value_heads") or heads)
    rows, rank = update.b.shape
    halves = update.b.reshape(heads, 2, rows // heads // 2, rank)
    return halves.transpose(1, 2).reshape(rows, rank)
