"""Adapters in hosted Tinker's layout: converted so that PEFT applies all of what they learnt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
import transformers
from dreadnode_runtime.backend.adapter_layout import CONFIG, WEIGHTS, settle
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tinker_cookbook.weights import build_lora_adapter
from torch import Tensor

RANK, ALPHA = 4, 32
HIDDEN, INNER, EXPERTS = 32, 16, 4
PREFIX = "base_model.model.model."
Factors = dict[str, Tensor]


def save_base(folder: Path, kind: str, **settings: Any) -> Path:
    """Save a random model of two layers."""
    sizes = {
        "vocab_size": 96,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.3,
    }
    if kind.endswith("Moe"):
        sizes |= {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": INNER}
    name = f"{kind}TextConfig" if "_5" in kind else f"{kind}Config"
    torch.manual_seed(0)
    config = getattr(transformers, name)(**sizes, **settings)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


def factors(layer: str, size_in: int, size_out: int, a: int = 0, b: int = 0) -> Factors:
    """Return random factors of LAYER, the same in every run; A and B: experts of each factor."""
    sizes = {"A": (RANK, size_in), "B": (size_out, RANK)}
    source = torch.Generator().manual_seed(crc32(layer.encode()))
    return {
        f"{PREFIX}{layer}.lora_{x}.weight": 0.2
        * torch.randn(*([n] if n else []), *sizes[x], generator=source)
        for x, n in (("A", a), ("B", b))
    }


def experts_of(layer: int) -> Factors:
    """Return factors of all experts of a layer, the inner ones shared where Tinker shares them."""
    path = f"layers.{layer}.mlp.experts"
    return {
        **factors(f"{path}.w1", HIDDEN, INNER, 1, EXPERTS),
        **factors(f"{path}.w3", HIDDEN, INNER, 1, EXPERTS),
        **factors(f"{path}.w2", INNER, HIDDEN, EXPERTS, 1),
    }


def save_adapter(folder: Path, tensors: Factors) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    config = {
        "base_model_name_or_path": "Qwen/Qwen3-8B:peft:131072",
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": "all-linear",
    }
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def update(tensors: Factors, layer: str) -> Tensor:
    """Return the update of one layer's weight, (out, in) or (experts, out, in)."""
    a, b = (tensors[f"{PREFIX}{layer}.lora_{x}.weight"] for x in "AB")
    return b @ a * (ALPHA / RANK)


def last_layer(model: Any, tensors: Factors) -> None:
    model.lm_head.weight += update(tensors, "unembed_tokens")


def experts(model: Any, tensors: Factors) -> None:
    for number, layer in enumerate(model.model.layers):
        path = f"layers.{number}.mlp.experts"
        gate, up, down = (update(tensors, f"{path}.{name}") for name in ("w1", "w3", "w2"))
        layer.mlp.experts.gate_up_proj += torch.cat([gate, up], dim=1)
        layer.mlp.experts.down_proj += down


def linear_attention(model: Any, tensors: Factors) -> None:
    parts = [update(tensors, f"layers.0.linear_attn.in_proj_{part}") for part in "qkv"]
    model.model.layers[0].linear_attn.in_proj_qkv.weight += torch.cat(parts)


LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
IN_PROJ = {
    **factors("layers.0.linear_attn.in_proj_q", HIDDEN, 16),
    **factors("layers.0.linear_attn.in_proj_k", HIDDEN, 16),
    **factors("layers.0.linear_attn.in_proj_v", HIDDEN, 32),
}
KEPT = "The adapter is kept as Tinker exported it, and PEFT does not load it: "
HEAD = factors("unembed_tokens", HIDDEN, 96)
EXPERT_FACTORS = experts_of(0) | experts_of(1)


@pytest.mark.parametrize(
    ("kind", "settings", "tensors", "apply"),
    [
        ("Qwen3", {}, HEAD, last_layer),
        ("Qwen3Moe", {}, EXPERT_FACTORS, experts),
        ("Qwen3_5", LINEAR, IN_PROJ, linear_attention),
        ("Qwen3_5Moe", LINEAR, EXPERT_FACTORS, experts),
    ],
)
def test_peft_applies_all_of_an_adapter_in_hosted_tinkers_layout(
    kind: str,
    settings: dict[str, Any],
    tensors: Factors,
    apply: Callable[[Any, Factors], None],
    tmp_path: Path,
) -> None:
    base = save_base(tmp_path / "base", kind, **settings)
    folder = save_adapter(tmp_path / "adapter", tensors)

    assert settle(folder, str(base)) == []

    tokens = torch.arange(3, 23)[None]
    load = transformers.AutoModelForCausalLM.from_pretrained
    with torch.no_grad():
        expected = load(base, dtype=torch.float32)
        plain = expected(tokens).logits
        apply(expected, tensors)
        found = PeftModel.from_pretrained(load(base, dtype=torch.float32), folder)(tokens).logits
        torch.testing.assert_close(found, expected(tokens).logits, rtol=1e-4, atol=1e-4)
        assert (found - plain).abs().max() > 1e-2
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == "Qwen/Qwen3-8B"


def test_experts_are_named_as_the_cookbook_names_them(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "Qwen3Moe")
    folder = save_adapter(tmp_path / "adapter", EXPERT_FACTORS)
    build_lora_adapter(
        base_model=str(base), adapter_path=str(folder), output_path=str(tmp_path / "cookbook")
    )

    settle(folder, str(base))

    found, expected = load_file(folder / WEIGHTS), load_file(tmp_path / "cookbook" / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_peft_ignores_is_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "Qwen3Moe", mlp_only_layers=[0])
    tensors = {
        name: tensor
        for layer in ("gate_proj", "up_proj", "down_proj")
        for name, tensor in factors(
            f"layers.0.mlp.{layer}", *((64, HIDDEN) if layer == "down_proj" else (HIDDEN, 64))
        ).items()
    }
    folder = save_adapter(tmp_path / "adapter", tensors | experts_of(1))

    (note,) = settle(folder, str(base))

    assert "ignores the weights of 3 layers of this adapter, such as" in note
    assert "`model.layers.0.mlp.down_proj`; `dn train export --format merged`" in note


@pytest.mark.parametrize(
    ("tensors", "base", "sentence"),
    [
        (
            factors("layers.0.linear_attn.in_proj_q", HIDDEN, 16),
            "Qwen3",
            KEPT
            + "`model.layers.0.linear_attn` has only some of `in_proj_q`, `in_proj_k`, `in_proj_v`",
        ),
        (
            {f"{PREFIX}unembed_tokens.bias": torch.zeros(2), **HEAD},
            "Qwen3",
            KEPT + "`base_model.model.model.unembed_tokens.bias` is not one of two LoRA factors",
        ),
    ],
)
def test_an_unknown_layout_is_kept_and_named(
    tensors: Factors, base: str, sentence: str, tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "adapter", tensors)
    before = (folder / WEIGHTS).read_bytes()
    path = save_base(tmp_path / "base", base)

    assert settle(folder, str(path)) == [sentence]

    assert (folder / WEIGHTS).read_bytes() == before


def test_an_adapter_of_an_unknown_base_model_is_converted_and_not_compared(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", HEAD)

    (note,) = settle(folder, None)

    assert "not compared with what PEFT loads: the engine does not name the base" in note

    assert "base_model.model.lm_head.lora_A.weight" in load_file(folder / WEIGHTS)
