"""The layout of an adapter that arrives: converted if it is known, and compared with PEFT's.

The comparison loads the adapter's names and shapes into PEFT on the meta device, so it needs the
configuration of the base model and none of its weights.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreadnode_runtime.backend.hosted_layout import UnknownLayout, is_hosted, to_peft
from dreadnode_runtime.errors import plain

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_DTYPE = "base_dtype"
"""Metadata of our engine's adapters: the data type of the base weights in training."""
Shapes = Mapping[str, list[int]]
_UNLOADABLE = (
    *(ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError),
    RuntimeError,
)
"""What the libraries raise for an adapter or a model that they do not know.

What was trained is kept all the same, and the job never fails of it.
"""


def settle(folder: Path, base: str | None) -> list[str]:
    """Convert the adapter in FOLDER to PEFT's layout where needed, and compare it with PEFT's.

    Args:
        folder: With the adapter's files.
        base: Folder or hub id of the base model.

    Returns:
        One sentence for each thing that PEFT would lose or that could not be compared.
    """
    config = json.loads((folder / CONFIG).read_text())
    named = without_variant(str(config.get("base_model_name_or_path") or base or ""))
    if named != config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = named
        _write_config(folder, config)
    shapes, metadata = header(folder)
    if BASE_DTYPE in metadata and not any(".experts." in name for name in shapes):
        # Our engine trains with PEFT, under PEFT's own names; only experts are renamed.
        return []
    if not is_hosted(set(shapes)):
        return _lost(folder, base)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    notes: list[str] = []
    # Which of the two layouts of experts PEFT reads depends on the model; the first one, which
    # other programs read, stays where PEFT reads neither.
    for each_expert in (True, False, True):
        try:
            converted = to_peft(tensors, config, each_expert=each_expert)
        except (UnknownLayout, *_UNLOADABLE) as problem:
            return [
                f"The adapter is kept as Tinker exported it, and PEFT does not load it: {problem}"
            ]
        _write(folder, *converted, metadata)
        notes = _lost(folder, base)
        if not notes:
            break
    return notes


def without_variant(model: str) -> str:
    """Return the name that the weights of MODEL have: without `:peft:TOKENS` of the catalog."""
    return re.sub(r":peft:\d+$", "", model)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def _write(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", **metadata})
    _write_config(folder, config)


def settle_layout(folder: Path) -> None:
    """Convert the adapter in FOLDER to PEFT's layout if it is in hosted Tinker's.

    Raises:
        UnknownLayout: A tensor has another name or shape than that layout has.
    """
    shapes, metadata = header(folder)
    if is_hosted(set(shapes)):
        config = json.loads((folder / CONFIG).read_text())
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        _write(folder, *to_peft(tensors, config, each_expert=True), metadata)


def header(folder: Path) -> tuple[Shapes, dict[str, str]]:
    """Return the shapes of the weights in FOLDER by name, and the metadata of their file."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        return shapes, dict(file.metadata() or {})


def _skeleton(base: str | None, *, whole: bool) -> Any:
    """Return the base model without weights, or a reason why it cannot be made.

    WHOLE says that the adapter names the layers of a language model beside other towers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    if base is None:
        return "the engine does not name the base model's files"
    try:
        config = AutoConfig.from_pretrained(without_variant(base))
        with torch.device("meta"):
            build = AutoModelForImageTextToText if whole else AutoModelForCausalLM
            return build.from_config(config, dtype=torch.float32)
    except (OSError, *_UNLOADABLE) as problem:
        return f"transformers cannot build `{without_variant(base)}` here ({plain(problem)})"


def _lost(folder: Path, base: str | None) -> list[str]:
    """Return one sentence if PEFT ignores or refuses any of the weights in FOLDER."""
    shapes, _ = header(folder)
    model = _skeleton(base, whole=any(".language_model." in name for name in shapes))
    if isinstance(model, str):
        return [f"The adapter was not compared with what PEFT loads: {model}"]
    # PEFT takes seconds to import, and only the end of a job needs it.
    import peft

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    keeps = "`dn train export --format merged` applies all of it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = peft.PeftConfig.from_pretrained(str(folder))
            wrapped = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
            result = peft.set_peft_model_state_dict(wrapped, tensors, low_cpu_mem_usage=True)
    except _UNLOADABLE as problem:
        return [f"PEFT {peft.__version__} does not load this adapter ({plain(problem)}); {keeps}"]
    lost = sorted({name.partition(".lora_")[0] for name in result.unexpected_keys})
    if not lost:
        return []
    first = lost[0].removeprefix("base_model.model.")
    count = "1 layer" if len(lost) == 1 else f"{len(lost)} layers"
    ignored = f"PEFT {peft.__version__} ignores the weights of {count} of this adapter"
    return [f"{ignored}, such as `{first}`; {keeps}"]
