"""The architectures that this engine computes, told from a model's `config.json`.

Any causal language model with full attention in every layer works as it is. Other kinds of layers
need a cache of their own (`compute/layer_slots.py`), so the architectures that have them are named
here, each with a test; every other one is refused with the reason.
"""

from collections.abc import Mapping
from typing import Any

from dreadnode_engine.base_models.quantization import unsupported_quantization

HYBRIDS: Mapping[str, str] = {
    "gpt_oss": "sliding and full attention with sinks, routed experts",
    "qwen3_5_text": "gated delta rule and full attention",
    "qwen3_5_moe_text": "gated delta rule and full attention, routed experts",
    "deepseek_v3": "latent attention, routed experts",
    "deepseek_v4": "sliding attention and attention to compressed positions, routed experts",
    "glm_moe_dsa": "latent attention to selected positions, routed experts",
    "glm5_next_text": "Kimi delta attention and latent attention to selected pools of positions, "
    "routed experts",
    "nemotron_h": "Mamba-2, full attention, MLP and routed experts",
    "inkling_text": "sliding and full attention by distance, convolutions, routed experts",
    "inkling2_text": "sliding and full attention by distance, convolutions, routed experts",
}
"""Architectures with other layers than full attention, by the model type of their decoder."""

TEXT_TOWERS: Mapping[str, str] = {
    "qwen3_5": "Qwen3_5ForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForCausalLM",
    "kimi_k25": "DeepseekV3ForCausalLM",
    "glm5_next": "Glm5NextForCausalLM",
    "nemotron_h_omni": "NemotronHForCausalLM",
    "inkling_mm_model": "InklingForCausalLM",
    "inkling2": "Inkling2ForCausalLM",
}
"""The class that holds only the text tower of a vision model, by its model type."""

NESTED_DECODERS = frozenset(
    {"kimi_k25", "glm5_next", "nemotron_h_omni", "inkling_mm_model", "inkling2"}
)
"""Vision models whose text tower transformers loads only with the other towers."""
UNPADDED = 200058
"""The tokens of Inkling 2, where `config.json` does not say how many of its rows are padding."""

REFUSED: Mapping[str, str] = {
    "deepseek_v32": "its indexer rotates positions in another way than that of GLM 5",
}
"""Why an architecture that transformers knows is not computed here."""


def decoder_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the decoder in CONFIG: a vision model has them apart."""
    text = config.get("text_config") or config.get("llm_config")
    settings = text if isinstance(text, dict) else config
    # Published Inkling models have another name for their context.
    context = settings.get("model_max_length")
    return settings if context is None else {"max_position_embeddings": context, **settings}


def vocabulary(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model with CONFIG knows; further rows of its last layer are none."""
    decoder = decoder_settings(config)
    rows = int(decoder["vocab_size"])
    default = UNPADDED if config.get("model_type") == "inkling2" else rows
    return min(rows, int(decoder.get("unpadded_vocab_size") or default))


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Return why a model with CONFIG, its `config.json`, is not served; None if it is."""
    name = (config.get("architectures") or [""])[0] or "model of unknown kind"
    kind = str(config.get("model_type", ""))
    decoder = decoder_settings(config)
    if kind in REFUSED:
        return f"it is a {name}, and {REFUSED[kind]}"
    if kind not in TEXT_TOWERS and not name.endswith("ForCausalLM"):
        return f"it is a {name}, not a causal language model"
    for field in ("max_position_embeddings", "vocab_size"):
        if not isinstance(decoder.get(field), int):
            return f"its `config.json` lacks `{field}`"
    if kind not in HYBRIDS and kind not in TEXT_TOWERS:
        kinds = set(decoder.get("layer_types") or ["full_attention"])
        if kinds != {"full_attention"} or decoder.get("use_sliding_window"):
            return "it has layers other than full attention, which this engine does not support"
        if decoder.get("kv_lora_rank"):
            return "it has latent attention, which this engine does not support in a " + name
    return unsupported_quantization(config)


def architecture_class(config: Mapping[str, Any]) -> str:
    """Return the class of transformers that a model with CONFIG is loaded into."""
    kind = str(config.get("model_type", ""))
    return TEXT_TOWERS.get(kind) or str(config["architectures"][0])
