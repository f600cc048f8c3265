"""The files of a base model: where each weight is, without reading it."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dreadnode_engine.base_models.architectures import decoder_settings
from dreadnode_engine.base_models.stored_weights import NESTED
from dreadnode_engine.errors import Refused

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_COPIED = {".json", ".jinja", ".model", ".txt", ".tiktoken"}
"""Suffixes of the files that go with the weights: configuration, tokenizer, chat template."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a safetensors file: its type, shape and position."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class BaseFiles:
    """A base model's folder in Hugging Face's format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as problem:
            raise Refused(f"{folder} has no readable `config.json`") from problem
        self.shards = self._shards()
        self.headers = {shard: _header(shard) for shard in self.shards}

    @property
    def model_type(self) -> str:
        """The kind of model, as transformers names it."""
        return str(self.config.get("model_type", ""))

    @property
    def decoder(self) -> Mapping[str, Any]:
        """The settings of the language model, which a vision model has apart."""
        return decoder_settings(self.config)

    @property
    def experts(self) -> int:
        """Number of experts in a layer; 0 without experts."""
        return expert_count(self.decoder)

    @property
    def tied(self) -> bool:
        """Whether the last layer and the embeddings are one matrix."""
        stored = self.name_of("lm_head.weight") is not None
        return bool(
            self.config.get(
                "tie_word_embeddings", self.decoder.get("tie_word_embeddings", not stored)
            )
        )

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """All weights by name."""
        found = {}
        for shard, (data, header) in self.headers.items():
            for name, entry in header.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    found[name] = StoredTensor(
                        shard, entry["dtype"], tuple(entry["shape"]), data + start, end - start
                    )
        return found

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(shard.stat().st_size for shard in self.shards)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def name_of(self, layer: str) -> str | None:
        """Return the name of the weight LAYER, as transformers names it; None if it is not here.

        A vision model has its language model one level below, and Nemotron-H calls its own
        `backbone`.
        """
        bare = layer.removeprefix("model.")
        backbone = layer if bare == layer else f"backbone.{bare}"
        names = [layer, f"model.language_model.{bare}", f"{NESTED}{layer}"]
        names += [backbone, f"{NESTED}{backbone}"]
        return next((name for name in names if name in self.tensors), None)

    def copy_companions(self, to: Path) -> None:
        """Copy what goes with the weights: configuration, generation settings, tokenizer."""
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and file.suffix in _COPIED and not file.name.endswith(".index.json"):
                shutil.copyfile(file, to / file.name)

    def _shards(self) -> list[Path]:
        try:
            names = set(json.loads((self.folder / INDEX).read_text())["weight_map"].values())
        except FileNotFoundError:
            names = {SINGLE}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
            raise Refused(f"{self.folder / INDEX} cannot be read") from problem
        shards = [self.folder / str(name) for name in sorted(names)]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise Refused(
                f"The weights of the base model are not whole: {self.folder} has no `{missing[0]}`"
            )
        return shards


def expert_count(config: Mapping[str, Any]) -> int:
    """Return how many experts a layer of a model with CONFIG has; 0 without experts."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((int(config[name]) for name in names if config.get(name)), 0)


def _header(shard: Path) -> tuple[int, dict[str, Any]]:
    """Return where the data of SHARD starts, and its header."""
    try:
        with shard.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
    except (OSError, ValueError) as problem:
        raise Refused(f"{shard} is not a readable safetensors file") from problem
    return 8 + size, header
