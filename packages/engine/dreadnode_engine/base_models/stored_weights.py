"""The weights in a model's files, under the names of the decoder that is loaded.

A vision model is loaded without its other towers, and any model without the layers that predict
several tokens at once.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dreadnode_engine.base_models.architectures import decoder_settings
from dreadnode_engine.base_models.quantization import convert, converted_name, settings_of

NESTED = "language_model."
"""The decoder's names start with this in published vision models that have a projector apart."""
_NOT_LOADED = (
    *("model.visual.", "vision_tower.", "mm_projector.", "model.mm_projector."),
    *("model.audio.", "vision_model.", "vision_final_layernorm.", "multi_modal_projector."),
    *("audio_tower.", "embed_audio.", "sound_encoder.", "sound_projection.", "mlp1."),
    *("mtp.", "model.mtp."),
)
_LAYER = re.compile(r"model\.(?:language_model\.|llm\.)?layers\.(\d+)\.")


def decoder_name(name: str, layers: int) -> str | None:
    """Return the name of the stored tensor NAME in a decoder of so many LAYERS; None if foreign."""
    name = name.removeprefix(NESTED)
    if name.startswith(_NOT_LOADED):
        return None
    match = _LAYER.match(name)
    return name if match is None or int(match[1]) < layers else None


def layer_count(config: Mapping[str, Any]) -> int:
    """Return how many layers the decoder of a model with CONFIG has; a huge number if unknown."""
    return int(decoder_settings(config).get("num_hidden_layers") or 2**31)


class StoredWeight:
    """A weight that is read, and converted if it is quantized, when it is indexed."""

    def __init__(self, weights: "StoredWeights", stored: str) -> None:
        self._weights = weights
        self._stored = stored

    def __getitem__(self, _: object) -> Any:
        """Return the whole weight, whatever the index: transformers asks for `[...]`."""
        return self._weights.read(self._stored)


class StoredWeights(Mapping[str, StoredWeight]):
    """The weights of the decoder in PATH, by name, for a model with CONFIG, its `config.json`."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        files: list[Any] = [
            safe_open(file, framework="pt") for file in sorted(path.glob("*.safetensors"))
        ]
        self._places = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        self._all = frozenset(self._places)
        self._settings = settings_of(config) or {}
        layers = layer_count(config)
        self._names: dict[str, str] = {}
        for stored in self._places:
            name = decoder_name(stored, layers)
            if name is not None and (converted := converted_name(name)) is not None:
                self._names[converted] = stored

    def read(self, stored: str) -> Any:
        """Return the weight that the tensor STORED becomes."""
        return convert(
            stored, self._settings, self._all, lambda name: self._places[name].get_tensor(name)
        )

    def __getitem__(self, name: str) -> StoredWeight:
        """Return the weight NAME, which is read later."""
        return StoredWeight(self, self._names[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the weights."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return how many weights there are."""
        return len(self._names)
