#!/usr/bin/env bash
# transformers 5.23.0: `InklingForCausalLM.from_pretrained`, the text tower of Inkling alone, finds none of
# its weights in a checkpoint of the whole model, and starts from random numbers with a warning. The names of
# published weights (`model.llm.layers.0.attn.wq_du`) are converted for the class with all towers only: the
# conversion belongs to the type `inkling_mm_model`, and the text tower's type is `inkling_text`. (The docstring
# of `InklingForCausalLM.forward` loads a published checkpoint so. Inkling 2 has a conversion for both types.)
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Output seen:
#   whole model: 0 of 26 weights of the text tower are missing
#   text tower alone: 26 of 26 weights are missing
# Exits with an error when the text tower finds its weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 torch==2.13.0
cat >load.py <<'PYTHON'
import sys

from transformers import InklingConfig, InklingForCausalLM, InklingForConditionalGeneration

text = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "layer_types": ["hybrid"],
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "rel_extent": 8, "d_rel": 4,
}
vision = {"patch_size": 4, "num_hidden_layers": 4, "hidden_size": 16}
audio = {"n_mel_bins": 2, "mel_vocab_size": 4}
config = InklingConfig(text_config=text, vision_config=vision, audio_config=audio)
InklingForConditionalGeneration(config).save_pretrained("saved")

_, found = InklingForConditionalGeneration.from_pretrained("saved", output_loading_info=True)
tower, alone = InklingForCausalLM.from_pretrained(
    "saved", config=config.text_config, output_loading_info=True
)
weights = len(tower.state_dict())
missing = len(alone["missing_keys"])
print(f"whole model: {len(found['missing_keys'])} of {weights} weights of the text tower are missing")
print(f"text tower alone: {missing} of {weights} weights are missing")
sys.exit(missing < weights)
PYTHON
venv/bin/python load.py 2>/dev/null || { echo "it has changed" >&2; exit 1; }
