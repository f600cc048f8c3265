"""Adapters as files: what PEFT loads from an export is what the engine computes."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from dreadnode_engine.compute import adapters
from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.compute.foreign_adapter import read_foreign
from dreadnode_engine.errors import OperationFailed
from peft import PeftModel
from safetensors.torch import load_file

ALL = LoraShape(4, train_mlp=True, train_attn=True, train_unembed=True)
TOKENS = torch.arange(3, 23)[None]


def random_adapter(wrapper: PeftWrapper) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = wrapper.shapes.items()
    return {name: torch.randn(size, generator=generator) * 0.15 for name, size in sizes}


KINDS = ["llama", "qwen3", "qwen3_moe", "gpt_oss", "qwen3_5_moe", "deepseek_v3", "nemotron_h"]
STACKED = ("gpt_oss", "qwen3_5_moe", "deepseek_v3", "nemotron_h")
"""Models whose experts PEFT reads in one tensor only, or beside ordinary MLPs."""


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_an_export_and_computes_what_the_engine_computes(
    kind: str, make_tiny: Callable[[str, int], Path], tmp_path: Path
) -> None:
    load = transformers.AutoModelForCausalLM.from_pretrained
    folder = make_tiny(kind, 320)
    base = load(folder, dtype=torch.float32).eval()
    wrapper = PeftWrapper(base, ALL)
    tensors = random_adapter(wrapper)

    wrapper.export(tensors, tmp_path, "Qwen/Qwen3-8B:peft:131072")

    wrapper.bind(tensors)
    with torch.no_grad():
        expected = wrapper.causal_lm(TOKENS).logits
        found = PeftModel.from_pretrained(load(folder), tmp_path)(TOKENS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    expert = "base_model.model.model.layers.0.mlp.experts.3.gate_proj.lora_A.weight"
    assert (expert in names) == (kind == "qwen3_moe")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen3-8B"
    assert bool(config["target_parameters"]) == (kind in STACKED)
    shapes = {name: tuple(size) for name, size in wrapper.shapes.items()}
    uploaded = read_foreign(tmp_path, shapes, "Qwen/Qwen3-8B:peft:131072", rank=4, seed=0)
    for again in (wrapper.load(tmp_path), uploaded.tensors):
        assert list(again) == list(tensors)
        assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def mixed_model(**sizes: Any) -> Any:
    """Return a model with experts beside ordinary MLPs."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        mlp_only_layers=[0],
        **sizes,
    )
    return transformers.Qwen3MoeForCausalLM(config).eval()


def test_ordinary_mlps_beside_experts_are_trained_and_experts_keep_their_rank() -> None:
    shapes = PeftWrapper(mixed_model(), ALL).shapes

    layer = "base_model.model.model.layers"
    assert shapes[f"{layer}.0.mlp.gate_proj.lora_A.weight"] == (4, 32)
    # Four experts of rank 4.
    assert shapes[f"{layer}.1.mlp.experts.base_layer.lora_A.weight"] == (16, 32)


def test_layers_that_peft_does_not_adapt_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # As PEFT 0.21 does it by itself: it moves the names of ordinary MLPs to the experts.
    monkeypatch.setattr(adapters, "_unrenamed", lambda model: nullcontext())

    with pytest.raises(OperationFailed, match="does not adapt the layers of this model") as failed:
        PeftWrapper(mixed_model(), ALL)

    assert "(4 differ, such as `model.layers.0.mlp.down_proj`)" in str(failed.value)
