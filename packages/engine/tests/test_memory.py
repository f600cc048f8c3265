"""Memory estimates compared with what training takes, and budgets that follow the machine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dreadnode_engine.compute import memory

# One process for all models: it imports PyTorch once, and Linux lets it reset its peak.
MEASURE = """
import sys
from pathlib import Path
import numpy as np, psutil, torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.compute.training_state import TrainingState
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward
from tinker.types import AdamParams

torch.set_num_threads(1)
shape, device = LoraShape(16, True, True, True), Device()

def train(folder, tokens):
    memory.trim_allocator()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")
    served = inspect_model(folder, Path(folder))
    base = LoadedBase(served, device)
    wrapper, _ = base.wrapper_for(shape)
    state = TrainingState(base, shape, wrapper.initial(0))
    random = np.random.default_rng(0).integers(3, served.vocabulary, tokens + 1)
    data = [Datum(random[:-1], {"target_tokens": random[1:]})]
    job = check(ForwardBackward("cross_entropy", {}, False, data), Limits(served.vocabulary, 4096))
    for _ in range(2):
        list(state.forward_backward(job, tokens))
        state.optim_step(AdamParams(learning_rate=1e-4))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    needs = memory.base_bytes(served, device) + memory.run_bytes(served, shape)
    return needs + memory.training_bytes(served, device, tokens), peak - before

train(sys.argv[1], 8)
for folder in sys.argv[1:]:
    print(*train(folder, 512))
"""


def save_model(folder: Path, kind: str, config_class: str = "", **sizes: Any) -> Path:
    """Save a random model of KIND, the name of its class, with a tokenizer of one token."""
    import dreadnode_engine.compute.decoders  # noqa: F401 (it registers a class)
    import transformers
    from tokenizers import Tokenizer, models

    common = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    config = getattr(transformers, config_class or f"{kind}Config")(**common | sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="a").save_pretrained(
        folder
    )
    return folder


def test_estimates_are_within_a_quarter_of_what_training_takes(tmp_path: Path) -> None:
    wide = {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 4}
    gated = {"linear_key_head_dim": 48, "linear_value_head_dim": 48}
    gated |= {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "head_dim": 48}
    mamba = {
        "layers_block_type": ["linear_attention", "mlp"] * 3 + ["full_attention", "mlp"],
        "ssm_state_size": 64,
        "mamba_num_heads": 12,
        "n_groups": 4,
        "head_dim": 48,
    }
    routed = {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 48}
    latent = {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "first_k_dense_replace": 1,
        "q_lora_rank": 128,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "n_group": 1,
        "topk_group": 1,
        "num_key_value_heads": 8,
    }
    by_distance = {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "swa_num_attention_heads": 8,
        "swa_num_key_value_heads": 4,
        "swa_head_dim": 32,
        "sliding_window_size": 128,
    }
    delta = latent | {
        "qk_rope_head_dim": 0,
        "linear_head_dim": 48,
        "linear_num_heads": 8,
        "index_kpool": 4,
        "pad_token_id": None,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    }
    compressed = {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "q_lora_rank": 128,
        "num_key_value_heads": 1,
        "head_dim": 48,
        "partial_rotary_factor": 0.5,
        "o_groups": 4,
        "o_lora_rank": 64,
        "index_n_heads": 8,
        "index_head_dim": 32,
        "index_topk": 32,
    }
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    folders = [
        save_model(tmp_path / "llama", "Llama", vocab_size=4000, **wide),
        save_model(tmp_path / "words", "Qwen3", vocab_size=24000, **wide),
        save_model(tmp_path / "experts", "Qwen3Moe", vocab_size=4000, **wide, **experts),
        save_model(
            tmp_path / "gated", "Qwen3_5", "Qwen3_5TextConfig", vocab_size=4000, **wide, **gated
        ),
        save_model(
            tmp_path / "mamba",
            "NemotronH",
            vocab_size=4000,
            **{k: v for k, v in wide.items() if k != "num_hidden_layers"},
            **mamba,
        ),
        save_model(
            tmp_path / "sinks",
            "GptOss",
            vocab_size=4000,
            **wide | {"intermediate_size": 256},
            **routed,
        ),
        save_model(
            tmp_path / "distance",
            "Inkling",
            "InklingTextConfig",
            vocab_size=4000,
            **wide | by_distance,
        ),
        save_model(tmp_path / "latent", "DeepseekV3", vocab_size=4000, **wide, **latent),
        save_model(
            tmp_path / "delta", "Glm5Next", "Glm5NextTextConfig", vocab_size=4000, **wide, **delta
        ),
        save_model(
            tmp_path / "compressed",
            "DeepseekV4",
            vocab_size=4000,
            **{k: v for k, v in wide.items() if k != "intermediate_size"},
            **compressed,
        ),
    ]

    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, folders)], stdout=subprocess.PIPE, check=True
    )

    for line, folder in zip(measured.stdout.decode().splitlines(), folders, strict=True):
        estimate, peak = map(int, line.split())
        assert 0.75 <= estimate / peak <= 1.25, f"{folder.name}: {estimate} {peak}"


@pytest.mark.parametrize(("limit", "free"), [("max", 2**62), ("1000", 450)])
def test_the_memory_limit_of_a_container_counts(tmp_path: Path, limit: str, free: int) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "a" / "memory.current").write_text("600\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 500\ninactive_file 50\n")

    assert memory.free_in_cgroup(tmp_path, "/a/b") == free
