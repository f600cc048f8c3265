#!/usr/bin/env bash
# transformers 5.23.0: block-wise FP8 weights are converted wrongly, or not at all, where a matrix does not
# end with a whole block. The size of a block is computed from the number of scales, not read from
# `weight_block_size`. DeepSeek V3's `kv_a_proj_with_mqa` has 576 rows and five scales of 128 rows each, the
# last of which covers 64: 576 is not divisible by 5, and the model cannot be loaded without a GPU for FP8.
# Where the division happens to work out, as with 192 rows and two scales, half of the rows get the
# scale of their neighbours, and nothing warns.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, Python 3.11, on a CPU.
# Output seen:
#   192 rows: largest error 1.0000 of the weights
#   576 rows: RuntimeError
# Exits with an error when both are converted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 torch==2.13.0 accelerate==1.15.0
cat >blocks.py <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

NAME = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


def loaded(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix of so many rows as transformers converts it, and as it is stored."""
    config = DeepseekV3Config(
        vocab_size=96, hidden_size=128, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, q_lora_rank=128, kv_lora_rank=rows - 64,
        qk_rope_head_dim=64, qk_nope_head_dim=64, v_head_dim=128, first_k_dense_replace=1,
    )
    DeepseekV3ForCausalLM(config).save_pretrained(f"rows{rows}")
    path = Path(f"rows{rows}")
    settings = json.loads((path / "config.json").read_text())
    others = [f"self_attn.{part}" for part in ("q_a_proj", "q_b_proj", "kv_b_proj", "o_proj")]
    settings["quantization_config"] = {
        "quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head", "mlp", *others],
    }
    (path / "config.json").write_text(json.dumps(settings))
    weights = load_file(path / "model.safetensors")
    blocks = -(-rows // 128)
    weights[NAME] = torch.ones(rows, 128).to(torch.float8_e4m3fn)
    weights[f"{NAME}_scale_inv"] = torch.arange(1.0, blocks + 1)[:, None]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    stored = torch.arange(1.0, blocks + 1).repeat_interleave(128)[:rows, None].expand(rows, 128)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.get_parameter(NAME).detach(), stored


whole, stored = loaded(192)
error = float(((whole - stored).abs() / stored).max())
print(f"192 rows: largest error {error:.4f} of the weights")
try:
    loaded(576)
    failed = False
except Exception as problem:
    print(f"576 rows: {type(problem).__name__}")
    failed = True
sys.exit(not (error > 0.1 and failed))
PYTHON
venv/bin/python blocks.py 2>/dev/null || { echo "it has changed" >&2; exit 1; }
