#!/usr/bin/env bash
# PEFT 0.21.2: in MoE models of transformers 5, `target_modules=["gate_proj", "up_proj", "down_proj"]`
# gives LoRA weights to the experts and none to ordinary MLPs with exactly these names, without a
# warning; and the experts' `gate_up_proj` gets twice the rank.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# PEFT takes these names, by the model's type, for those of experts in transformers 4. The same holds
# for an adapter that is loaded: its weights of ordinary MLPs are ignored.
# Output seen:
#   model.layers.0.mlp (ordinary): none
#   model.layers.1.mlp (4 experts): ranks 8 and 4
# Exits with an error when ordinary MLPs get LoRA weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
cat >wrapped.py <<'PYTHON'
import sys

from peft import LoraConfig, get_peft_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

model = Qwen3MoeForCausalLM(
    Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, mlp_only_layers=[0],
    )
)
names = ["gate_proj", "up_proj", "down_proj"]
ordinary = {n for n, m in model.named_modules() if n.startswith("model.layers.0.mlp.")}
assert {f"model.layers.0.mlp.{name}" for name in names} <= ordinary
wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=names))
ranks = {0: [], 1: []}
for name, parameter in wrapped.named_parameters():
    if ".lora_A." in name:
        layer = 0 if ".layers.0." in name else 1
        ranks[layer].append(len(parameter) // (1 if layer == 0 else 4))
print("model.layers.0.mlp (ordinary):", ranks[0] or "none")
print("model.layers.1.mlp (4 experts): ranks", " and ".join(map(str, ranks[1])))
sys.exit(bool(ranks[0]) or sorted(ranks[1]) != [4, 8])
PYTHON
venv/bin/python wrapped.py 2>/dev/null || { echo "it has changed" >&2; exit 1; }
