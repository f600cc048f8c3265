"""Compare exported GGUF adapters with llama.cpp itself, on tiny models.

    pip install llama-cpp-python==0.3.36      # builds llama.cpp; minutes to an hour
    python scripts/compare_with_llama_cpp.py

For a Llama, a Qwen3 and a Qwen3-MoE model it writes the base model as float32 GGUF, exports an
adapter of all layers, and compares llama.cpp's logits with the engine's. llama.cpp keeps keys and
values in half precision, so even base models differ in the third digit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.exports import logits
from dreadnode_engine.exports.export import run
from dreadnode_engine.exports.gguf_lora import ARCHITECTURES, FILE
from dreadnode_engine.settings import ExportSettings
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
ROWS = [list(range(3, 40)), [90, 4, 17, 5]]
TOLERANCE = 0.01
"""Largest difference, by the largest logit."""


def main() -> int:
    """Compare each kind of model, and return 1 if any differs."""
    sys.path.insert(0, str(ROOT / "packages/engine/tests"))
    failed = False
    for kind in ("llama", "qwen3", "qwen3_moe"):
        with tempfile.TemporaryDirectory() as temporary:
            difference, effect = compare(kind, Path(temporary))
        print(
            f"{kind}: differs by {difference:.4f} of the largest logit; the adapter by {effect:.2f}"
        )
        failed |= not difference <= TOLERANCE
    return int(failed)


def compare(kind: str, folder: Path) -> tuple[float, float]:
    """Return how much llama.cpp's logits differ from the engine's, and from the base model's."""
    from conftest import make_model  # type: ignore[import-not-found]

    base: Path = make_model(folder / "base", kind, 320)
    # llama.cpp always scales the weights of the chosen experts to 1.
    settings = json.loads((base / "config.json").read_text()) | {"norm_topk_prob": True}
    (base / "config.json").write_text(json.dumps(settings))
    save_adapter(kind, base, folder / "adapter")
    run(
        ExportSettings(
            adapter=folder / "adapter",
            base=base,
            format="gguf-lora",
            to=folder / "out",
            check=False,
            data_dir=folder,
        )
    )
    (folder / "rows.json").write_text(json.dumps(ROWS))
    logits.main("engine", base, folder / "adapter", folder / "rows.json", folder / "engine")
    expected = {name: tensor.numpy() for name, tensor in load_file(folder / "engine").items()}
    save_base(kind, base, folder / "base.gguf")
    found = by_llama_cpp(folder / "base.gguf", folder / "out" / FILE)
    largest = max(float(np.abs(each).max()) for each in expected.values())
    differences = [np.abs(found[n] - expected[f"adapter.{n}"]).max() for n in range(len(ROWS))]
    effect = np.abs(expected["adapter.0"] - expected["base.0"]).max()
    return float(max(differences)) / largest, float(effect) / largest


def save_adapter(kind: str, base: Path, folder: Path) -> None:
    """Save a random adapter of all layers."""
    wrapper, _ = LoadedBase(inspect_model(kind, base), Device()).wrapper_for(
        LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True)
    )
    torch.manual_seed(1)
    folder.mkdir()
    tensors = {name: torch.randn(size) * 0.15 for name, size in wrapper.shapes.items()}
    wrapper.export(tensors, folder, kind)


def save_base(kind: str, base: Path, to: Path) -> None:
    """Write the base model as a GGUF file of float32 weights, without a vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config: Any = model.config
    architecture = ARCHITECTURES[kind]
    writer = gguf.GGUFWriter(to, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    if kind == "qwen3_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for layer, weight in logits.published_weights(model).items():
        rows = weight.float().numpy()
        leaf = layer.split(".")[-2]
        if kind == "llama" and leaf in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if leaf == "q_proj" else config.num_key_value_heads
            halves = rows.reshape(heads, 2, -1, rows.shape[1])
            rows = halves.swapaxes(1, 2).reshape(rows.shape)
        name = names.get_name(layer, try_suffixes=(".weight",))
        writer.add_tensor(name, np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(base: Path, adapter: Path) -> Mapping[int, np.ndarray[Any, Any]]:
    """Return llama.cpp's logits of each row."""
    from llama_cpp import Llama  # type: ignore[import-not-found]

    model = Llama(str(base), lora_path=str(adapter), logits_all=True, n_ctx=256, verbose=False)
    found = {}
    for number, row in enumerate(ROWS):
        model.reset()
        model.eval(row)
        found[number] = np.array(model.scores[: len(row)])
    return found


if __name__ == "__main__":
    sys.exit(main())
