#!/usr/bin/env bash
# transformers 5.23.0: Nemotron-H (Nemotron 3) computes other logits with a cache than without one.
# A whole sequence bounds the time step of its Mamba-2 layers from below by `time_step_min`; a single
# token that continues a cache does not. So `generate` samples from another model than the one that
# is trained, wherever a time step is below the bound.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11, on a CPU without mamba-ssm.
# `time_step_min` is 0.1 here so that many steps are below it; the default is 0.001. The second line
# has the bound below all of them, with which both agree.
# Output seen:
#   time_step_min 0.1: largest difference of logits 1.7338
#   time_step_min 1e-9: largest difference of logits 0.0000
# Exits with an error when both ways agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 torch==2.13.0
cat >steps.py <<'PYTHON'
import sys

import torch
from transformers import DynamicCache, NemotronHConfig, NemotronHForCausalLM


def difference(time_step_min: float) -> float:
    torch.manual_seed(0)
    config = NemotronHConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, layers_block_type=["linear_attention", "mlp"] * 2
        + ["full_attention"], ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=8, n_groups=2,
        initializer_range=0.3, time_step_min=time_step_min,
    )
    model = NemotronHForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.fill_(-4.0)  # The time steps are about softplus(-4), 0.018.
        tokens = torch.arange(3, 43)[None]
        whole = model(input_ids=tokens, use_cache=False).logits
        cache = DynamicCache(config=config)
        steps = [
            model(input_ids=tokens[:, i : i + 1], past_key_values=cache, use_cache=True).logits
            for i in range(tokens.shape[1])
        ]
    return float((whole - torch.cat(steps, dim=1)).abs().max())


bounded, free = difference(0.1), difference(1e-9)
print(f"time_step_min 0.1: largest difference of logits {bounded:.4f}")
print(f"time_step_min 1e-9: largest difference of logits {free:.4f}")
sys.exit(not (bounded > 1e-2 and free < 1e-3))
PYTHON
venv/bin/python steps.py 2>/dev/null || { echo "it has changed" >&2; exit 1; }
