"""What is published about base models, so that their needs are known before their weights are here.

The settings are those of each model's `config.json` that memory depends on. The weights are counted
in the models that transformers builds from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A base model by its published settings.

    Attributes:
        model_type: of the decoder, as transformers names it.
        settings: of `config.json`; what is left out is transformers' default of this type.
        source: where the settings stand.
        parameters: of the decoder.
        adapter_parameters: of an adapter of rank 1 that trains all layers.
    """

    model_type: str
    settings: Mapping[str, Any]
    source: str
    parameters: int
    adapter_parameters: int


_LONG = {"max_position_embeddings": 262144}
_CARD = "https://huggingface.co/{}/blob/main/config.json"
_NANO_LAYERS = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
_SUPER_LAYERS = (
    "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
)
_NANO = {
    "hybrid_override_pattern": _NANO_LAYERS,
    "hidden_size": 2688,
    "num_key_value_heads": 2,
    "intermediate_size": 1856,
    "mamba_num_heads": 64,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    **_LONG,
}
_SUPER = {
    "hybrid_override_pattern": _SUPER_LAYERS,
    "num_key_value_heads": 2,
    "n_routed_experts": 512,
    "num_experts_per_tok": 22,
    "moe_intermediate_size": 2688,
    "moe_latent_size": 1024,
    "moe_shared_expert_intermediate_size": 5376,
    **_LONG,
}
_V31 = {"max_position_embeddings": 163840}
_KIMI_K2 = {
    "vocab_size": 163840,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    **_LONG,
}
_INKLING = {
    "unpadded_vocab_size": 200058,
    "log_scaling_n_floor": 128000,
    "dense_mlp_idx": 2,
    "max_position_embeddings": 1048576,
}
_INKLING_SMALL = {
    **_INKLING,
    "hidden_size": 4096,
    "num_hidden_layers": 42,
    "num_attention_heads": 32,
    "swa_num_attention_heads": 32,
    "swa_num_key_value_heads": 8,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
}
# One layer in four has an indexer of its own, from the third on.
_GLM_5 = {"index_topk_freq": 4, "index_skip_topk_offset": 3}
_GLM_53_FLASH = {"index_kpool": 4}
_GPT_OSS_20B = {"num_hidden_layers": 24, "num_local_experts": 32}
_QWEN3_8B = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}
_QWEN35_4B = {"hidden_size": 2560, "intermediate_size": 9216, "tie_word_embeddings": True, **_LONG}
_QWEN35_27B = {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_hidden_layers": 64,
    "num_attention_heads": 24,
    "linear_num_value_heads": 48,
    **_LONG,
}

_QWEN35_397B = {
    "hidden_size": 4096,
    "num_hidden_layers": 60,
    "num_attention_heads": 32,
    "linear_num_value_heads": 64,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024,
    **_LONG,
}

# The first two layers have a window alone; then both kinds of compression take turns.
_DEEPSEEK_V4 = {
    "layer_types": [
        *["sliding_attention"] * 2,
        *["compressed_sparse_attention", "heavily_compressed_attention"] * 20,
        "compressed_sparse_attention",
    ]
}
_NEMOTRON_3_SUPER = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16"
_ROWS: tuple[tuple[str, str, Mapping[str, Any], int, int], ...] = (
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron_h", _NANO, 31577937344, 27598784),
    (_NEMOTRON_3_SUPER, "nemotron_h", _SUPER, 120668687360, 154043392),
    (
        "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
        "nemotron_h",
        _NANO,
        31577937344,
        27598784,
    ),
    ("thinkingmachines/Inkling", "inkling_text", _INKLING, 947025547842, 356137280),
    ("thinkingmachines/Inkling-Small", "inkling_text", _INKLING_SMALL, 263655189034, 148440384),
    ("thinkingmachines/Inkling-2-Small", "inkling2_text", {}, 593722930176, 299823936),
    ("deepseek-ai/DeepSeek-V3.1", "deepseek_v3", _V31, 671026404352, 312120384),
    ("moonshotai/Kimi-K2.6", "deepseek_v3", _KIMI_K2, 1026408209408, 477580096),
    ("zai-org/GLM-5.3", "glm_moe_dsa", _GLM_5, 743377000704, 362698880),
    ("zai-org/GLM-5.3-Flash", "glm5_next_text", _GLM_53_FLASH, 313326799870, 177061120),
    ("openai/gpt-oss-120b", "gpt_oss", {}, 116829156672, 67305664),
    ("openai/gpt-oss-20b", "gpt_oss", _GPT_OSS_20B, 20914757184, 11760832),
    ("Qwen/Qwen3.8-27B", "qwen3_5_text", _QWEN35_27B, 26895998464, 7052800),
    ("Qwen/Qwen3.6-35B-A3B", "qwen3_5_moe_text", _LONG, 34660610688, 59120128),
    ("Qwen/Qwen3.5-397B-A17B", "qwen3_5_moe_text", _QWEN35_397B, 396346350336, 349677056),
    ("Qwen/Qwen3.5-35B-A3B-Base", "qwen3_5_moe_text", _LONG, 34660610688, 59120128),
    ("Qwen/Qwen3.5-9B", "qwen3_5_text", _LONG, 8953803264, 2759168),
    ("Qwen/Qwen3.5-9B-Base", "qwen3_5_text", _LONG, 8953803264, 2759168),
    ("Qwen/Qwen3.5-4B", "qwen3_5_text", _QWEN35_4B, 4205751296, 2155520),
    ("Qwen/Qwen3-8B", "qwen3", _QWEN3_8B, 8190735360, 2883968),
)

PUBLISHED: Mapping[str, Published] = {
    name: Published(kind, settings, _CARD.format(name), parameters, adapter)
    for name, kind, settings, parameters, adapter in _ROWS
} | {
    # Its decoder is taken to have the sizes of Nemotron 3 Super; its own were not seen.
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16": Published(
        "nemotron_h", _SUPER, _CARD.format(_NEMOTRON_3_SUPER), 120668687360, 154043392
    ),
    # V4.1 is taken to have the sizes of V4, transformers' defaults; its own were not seen.
    **dict.fromkeys(
        ("deepseek-ai/DeepSeek-V4.1-Flash", "deepseek-ai/DeepSeek-V4.1-Flash-1017"),
        Published(
            "deepseek_v4",
            _DEEPSEEK_V4,
            _CARD.format("deepseek-ai/DeepSeek-V4-Flash"),
            284332230231,
            161136384,
        ),
    ),
}
