"""Logits of an export, computed in a process of its own by the library that loads it.

    python -m dreadnode_engine.exports.logits HOW BASE FOLDER ROWS OUT

HOW is `engine` (the engine's own network for sampling, with the adapter in FOLDER), `peft`,
`merged` or `gguf`. ROWS is a JSON file of rows of token ids. OUT gets the logits of every row, and
with `engine` those of the base model too.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreadnode_engine.compute.decoders import load_decoder
from dreadnode_engine.exports.gguf_lora import ARCHITECTURES, FILE

Rows = Sequence[Sequence[int]]
Logits = dict[str, Tensor]


def main(how: str, base: Path, folder: Path, rows: Path, out: Path) -> None:
    """Compute the logits of ROWS, and write them into OUT."""
    compute: Mapping[str, Callable[[Path, Path, Rows], Logits]] = {
        "engine": _by_engine,
        "peft": _by_peft,
        "merged": _merged,
        "gguf": _by_gguf,
    }
    logits = compute[how](base, folder, json.loads(rows.read_text()))
    save_file({name: tensor.contiguous() for name, tensor in logits.items()}, out)


def _by_engine(base: Path, folder: Path, rows: Rows) -> Logits:
    from dreadnode_engine.base_models.discovery import inspect_model
    from dreadnode_engine.compute.loaded_model import Device, LoadedBase

    network = LoadedBase(inspect_model(base.name, base), Device()).sampling_network
    found = {}
    with torch.no_grad():
        for name, adapter in (("base", None), ("adapter", folder)):
            network.assign_rows([adapter])
            for number, row in enumerate(rows):
                found[f"{name}.{number}"] = network.logits(network.hidden(torch.tensor([row]))[0])
    return found


def _by_peft(base: Path, folder: Path, rows: Rows) -> Logits:
    from peft import PeftModel

    return _of(PeftModel.from_pretrained(_load(base), folder), rows)


def _merged(base: Path, folder: Path, rows: Rows) -> Logits:
    del base  # A merged model needs nothing else.
    return _of(_load(folder), rows)


def _by_gguf(base: Path, folder: Path, rows: Rows) -> Logits:
    """Apply the tensors of a GGUF file to the base model, as llama.cpp would."""
    model = _load(base)
    reader = gguf.GGUFReader(folder / FILE)
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    names = gguf.get_tensor_name_map(
        ARCHITECTURES[model.config.model_type], model.config.num_hidden_layers
    )
    used = set()
    for layer, weight in published_weights(model).items():
        if (name := names.get_name(layer, try_suffixes=(".weight",))) is None:
            continue
        if (a := tensors.get(f"{name}.lora_a")) is None:
            continue
        used |= {f"{name}.lora_a", f"{name}.lora_b"}
        delta = tensors[f"{name}.lora_b"] @ a * (alpha / a.shape[-2])
        weight += _neighbours_apart(layer, delta, model.config)
    if left := sorted(tensors.keys() - used):
        raise SystemExit(f"the base model has no tensor for {left[0]}")
    return _of(model, rows)


def published_weights(model: Any) -> dict[str, Tensor]:
    """Return the weights of MODEL by the names of published files, gate and up of experts apart."""
    found: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.endswith(".experts.gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            gate, up = weight.chunk(2, dim=1)
            found |= {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}
        else:
            found[name if name.endswith(".weight") else f"{name}.weight"] = weight
    return found


def _neighbours_apart(layer: str, delta: Tensor, config: Any) -> Tensor:
    """Undo the order of rows of llama.cpp's Llama models: even rows first, then odd ones."""
    leaf = layer.split(".")[-2]
    if config.model_type != "llama" or leaf not in ("q_proj", "k_proj"):
        return delta
    heads = config.num_attention_heads if leaf == "q_proj" else config.num_key_value_heads
    by_head = delta.reshape(heads, -1, delta.shape[1])
    return torch.cat([by_head[:, ::2], by_head[:, 1::2]], dim=1).reshape(delta.shape)


def _load(folder: Path) -> Any:
    return load_decoder(folder, torch.float32).eval()


@torch.no_grad()
def _of(model: Any, rows: Rows) -> Logits:
    return {
        f"adapter.{number}": model(input_ids=torch.tensor([row])).logits[0].float()
        for number, row in enumerate(rows)
    }


if __name__ == "__main__":
    main(sys.argv[1], *(Path(each) for each in sys.argv[2:]))
