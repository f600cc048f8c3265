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
    "glm_moe_dsa": "latent attention to selected positions, routed experts",
    "nemotron_h": "Mamba-2, full attention, MLP and routed experts",
}
"""Architectures with other layers than full attention, by the model type of their decoder."""

TEXT_TOWERS: Mapping[str, str] = {
    "qwen3_5": "Qwen3_5ForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForCausalLM",
    "kimi_k25": "DeepseekV3ForCausalLM",
}
"""The class of transformers that loads only the text tower of a vision model, by its model type."""

NESTED_DECODERS = frozenset({"kimi_k25"})
"""Vision models whose text tower transformers builds, but loads only with the vision tower."""

REFUSED: Mapping[str, str] = {
    "deepseek_v4": "its layers attend to compressed and selected positions",
    "deepseek_v32": "its indexer rotates positions in another way than that of GLM 5",
    "glm5_next": "its layers have Kimi delta attention and an indexer of pooled positions",
    "inkling_mm_model": "transformers loads its weights only with the image and audio towers",
    "inkling2": "transformers loads its weights only with the vision tower",
    "nemotron_h_omni": "transformers loads its weights only with the image and audio towers",
}
"""Why an architecture that transformers knows is not computed here."""


def decoder_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the decoder in CONFIG: a vision model has them apart."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


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
