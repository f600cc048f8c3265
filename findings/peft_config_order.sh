#!/usr/bin/env bash
# PEFT 0.21.2: two processes that save the same adapter write different bytes to adapter_config.json,
# so the digest of an adapter's files changes although nothing else did.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# `LoraConfig` turns the list `target_modules` into a set and saves it in the set's order, which
# depends on the hash seed of the process. The weights are the same.
# Output seen (the order differs from run to run):
#   seed 1: ["q_proj", "o_proj", "k_proj", "v_proj"]
#   seed 2: ["k_proj", "o_proj", "q_proj", "v_proj"]
# Exits with an error when four processes write the same order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet peft==0.21.2 transformers==5.23.0 torch==2.13.0
cat >saved.py <<'PYTHON'
import json

from peft import LoraConfig

LoraConfig(r=4, target_modules=["k_proj", "o_proj", "q_proj", "v_proj"]).save_pretrained("adapter")
with open("adapter/adapter_config.json") as file:
    print(json.dumps(json.load(file)["target_modules"]))
PYTHON
for seed in 1 2 3 4; do
    echo "seed $seed: $(PYTHONHASHSEED=$seed venv/bin/python saved.py)"
done | tee orders
[ "$(cut -d: -f2 orders | sort -u | wc -l)" -gt 1 ] || { echo "it has changed" >&2; exit 1; }
