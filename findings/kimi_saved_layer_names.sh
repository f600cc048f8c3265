#!/usr/bin/env bash
# transformers 5.23.0: `save_pretrained` of a Kimi K2.5 or K2.6 writes the text tower's layers under names
# that no published checkpoint has: `language_model.model.blocks.0`, where the files of moonshotai have
# `language_model.model.layers.0`. The class that loads the model renames every `blocks` to `layers`,
# for the sake of the vision tower, and saving reverts that for both towers. transformers reads such files
# again, and nothing warns; a server that knows the published names finds no layer of the text tower.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Output seen:
#   published: language_model.model.layers.0.input_layernorm.weight
#   saved again: language_model.model.blocks.0.input_layernorm.weight
# Exits with an error when the saved names are the published ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 torch==2.13.0
cat >names.py <<'PYTHON'
import sys

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, Kimi_K25Config, Kimi_K25ForConditionalGeneration

text = DeepseekV3Config(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16,
    v_head_dim=8, first_k_dense_replace=1,
)
vision = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16,
          "intermediate_size": 16, "pos_emb_height": 2, "pos_emb_width": 2}
config = Kimi_K25Config(text_config=text.to_dict(), vision_config=vision, projection_hidden_size=16,
                        tie_word_embeddings=False)
Kimi_K25ForConditionalGeneration(config).save_pretrained("first")
weights = load_file("first/model.safetensors")
published = {name.replace("model.blocks.", "model.layers."): tensor for name, tensor in weights.items()}
save_file(published, "first/model.safetensors", metadata={"format": "pt"})

loaded, found = Kimi_K25ForConditionalGeneration.from_pretrained("first", output_loading_info=True)
assert not found["missing_keys"], "the published names are not read"
loaded.save_pretrained("second")


def layer(folder: str) -> str:
    with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.endswith("0.input_layernorm.weight")]
    return names[0]


print("published:", layer("first"))
print("saved again:", layer("second"))
sys.exit(layer("first") == layer("second"))
PYTHON
venv/bin/python names.py 2>/dev/null || { echo "it has changed" >&2; exit 1; }
