"""One export: read the adapter, find the base model, write, check, and only then be there."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

from dreadnode_engine.base_models.discovery import discover
from dreadnode_engine.compute.adapters import CONFIG_FILE, LANGUAGE_MODEL, without_variant
from dreadnode_engine.errors import Refused
from dreadnode_engine.exports import card, gguf_lora, merged, peft_files
from dreadnode_engine.exports.base_files import BaseFiles
from dreadnode_engine.exports.check import Comparison, compare, require_memory
from dreadnode_engine.exports.updates import AdapterFile, read
from dreadnode_engine.settings import ExportSettings, Form
from dreadnode_engine.startup import say
from dreadnode_engine.state.checkpoint_files import write_folder


def run(settings: ExportSettings) -> dict[str, Any]:
    """Export, and return what was written and how it was checked.

    Raises:
        Refused: Something cannot be exported so; nothing was written.
    """
    if settings.to.exists():
        raise Refused(f"{settings.to} exists; name another folder with `--to`")
    name = _base_name(settings.adapter)
    base = BaseFiles(settings.base or _find(name, settings.data_dir))
    adapter = read(settings.adapter, base.decoder)
    if settings.check:
        require_memory(base)
    result: dict[str, Any] = {"folder": str(settings.to), "format": settings.format}

    def fill(folder: Path) -> None:
        _write(settings.format, adapter, base, folder, name)
        check = None
        if settings.check:
            say(
                sys.stderr, "comparing the export's logits with the engine's; this can take minutes"
            )
            check = _compare(settings.format, adapter, base, folder)
            result.update(largest_difference=check.difference, adapter_effect=check.effect)
        whole = any(update.layer.startswith(LANGUAGE_MODEL) for update in adapter.updates)
        card.write(
            folder, settings.format, name, adapter.rank, check, settings.adapter, whole=whole
        )
        result["files"] = [
            {"path": file.name, "bytes": file.stat().st_size} for file in sorted(folder.iterdir())
        ]

    try:
        settings.to.parent.mkdir(parents=True, exist_ok=True)
        write_folder(settings.to, fill)
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            raise Refused(f"{settings.to} cannot be written: {problem}") from problem
        raise Refused(
            f"The disk of {settings.to.parent} became full; nothing was kept of the export"
        ) from problem
    return result


def _write(form: Form, adapter: AdapterFile, base: BaseFiles, to: Path, name: str) -> None:
    if form == "merged":
        merged.write(adapter, base, to)
    elif form == "gguf-lora":
        gguf_lora.write(adapter, base, to)
    elif form == "vllm":
        peft_files.write_for_vllm(adapter, base, to, name)
    else:
        peft_files.write(adapter, base, to, name)


def _compare(form: Form, adapter: AdapterFile, base: BaseFiles, to: Path) -> Comparison:
    how = {"merged": "merged", "gguf-lora": "gguf"}.get(form, "peft")
    # Only merging rounds anything, to the type of the weights.
    exact = form != "merged" or all(each.dtype == "F32" for each in base.tensors.values())
    return compare(how, base, adapter.folder, to, exact)


def _base_name(adapter: Path) -> str:
    try:
        config = json.loads((adapter / CONFIG_FILE).read_text())
        return without_variant(str(config["base_model_name_or_path"]))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise Refused(f"{adapter} has no `{CONFIG_FILE}` that names its base model") from problem


def _find(name: str, data_dir: Path) -> Path:
    """Return the folder of the base model NAME on this machine."""
    data_dir.mkdir(parents=True, exist_ok=True)
    found = discover(data_dir, (), stand_in=name.startswith("stand-in/"), cache=True).get(name)
    if found is None:
        raise Refused(
            f"The weights of `{name}` are not on this machine; name their folder with `--base`"
        )
    return found.path
