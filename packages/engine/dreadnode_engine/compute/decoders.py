"""The decoders that transformers builds for base models, with and without their weights."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    Mxfp4Config,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming

from dreadnode_engine.base_models.architectures import NESTED_DECODERS
from dreadnode_engine.base_models.quantization import MXFP4, settings_of
from dreadnode_engine.base_models.stored_weights import StoredWeights
from dreadnode_engine.compute.glm_flash import Glm5NextForCausalLM
from dreadnode_engine.errors import OperationFailed

# Without `exist_ok` transformers keeps its own configurations to its own classes.
AutoModelForCausalLM.register(Glm5NextForCausalLM.config_class, Glm5NextForCausalLM, exist_ok=True)
# transformers knows Inkling's published names only where all towers are loaded. Known to every
# process from its start, what one of them saves can be loaded by every other one.
_names_of_inkling = get_checkpoint_conversion_mapping("inkling_mm_model")
_names_of_inkling.append(WeightRenaming(r"^model\.language_model\.", "model."))
register_checkpoint_conversion_mapping("InklingForCausalLM", _names_of_inkling, overwrite=True)


def decoder_config(path: Path) -> Any:
    """Return the settings, of transformers, of the decoder that is loaded from PATH."""
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    return config.get_text_config(decoder=True)


def empty_decoder(path: Path, **settings: Any) -> Any:
    """Return the decoder of the model in PATH on the meta device, with SETTINGS of transformers."""
    with torch.device("meta"):
        # float32 is the default dtype; another one would be set for all threads meanwhile.
        return AutoModelForCausalLM.from_config(
            decoder_config(path), dtype=torch.float32, **settings
        )


def load_decoder(path: Path, dtype: torch.dtype | None, **settings: Any) -> Any:
    """Load the decoder of the model in PATH, with SETTINGS of transformers.

    Args:
        path: a folder in Hugging Face's format.
        dtype: the data type of all weights; None keeps that of the files, or takes bfloat16 for
            quantized ones without one.
        settings: of `from_pretrained`.
    """
    config = json.loads((path / "config.json").read_text())
    quantization = settings_of(config) or {}
    method = quantization.get("quant_method")
    if method == MXFP4:
        settings["quantization_config"] = Mxfp4Config(dequantize=True)
    if method in (None, MXFP4) and config.get("model_type") not in NESTED_DECODERS:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype or "auto",
            local_files_only=True,
            output_loading_info=True,
            **settings,
        )
        # The weights are plain floats now.
        model.hf_quantizer = None
    else:
        model, found = _load_stored(path, config, dtype, settings)
    # transformers fills what the files lack with random numbers.
    if missing := sorted(found["missing_keys"]):
        raise OperationFailed(
            f"The files in {path} lack {len(missing)} weights of a {type(model).__name__}, such as "
            f"`{missing[0]}`; download the model again",
            category="server",
        )
    return model


def _load_stored(
    path: Path, config: dict[str, Any], dtype: torch.dtype | None, settings: dict[str, Any]
) -> Any:
    """Load weights that transformers does not read as they are stored."""
    decoder = decoder_config(path)
    if hasattr(decoder, "quantization_config"):
        del decoder.quantization_config
    model, found = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder)].from_pretrained(
        None,
        config=decoder,
        state_dict=StoredWeights(path, config),
        dtype=dtype or decoder.dtype or torch.bfloat16,
        output_loading_info=True,
        **settings,
    )
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    return model, found
