"""Merging an adapter into the weights of its base model, file by file and block by block.

Each file of the base model is copied with its header, so tensors keep their names, types and
places; only blocks of rows that the adapter updates are computed, in float32. Memory stays at a few
blocks.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from dreadnode_engine.errors import Refused
from dreadnode_engine.exports.base_files import INDEX, SINGLE, BaseFiles, StoredTensor
from dreadnode_engine.exports.updates import AdapterFile, Update

BLOCK = 2**22
"""Numbers that are merged at once."""
_COPY = 2**24
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
HEAD = "lm_head"
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)")


@dataclass(frozen=True)
class Patch:
    """Where an update is added: to the rows from `row` on, of one expert if there are several."""

    update: Update
    row: int = 0
    expert: int | None = None


def plan(adapter: AdapterFile, base: BaseFiles) -> dict[str, list[Patch]]:
    """Return the patches of each weight of BASE, by name.

    An update of a last layer that is tied to the embeddings is planned as `lm_head.weight`, which
    the base model's files then do not have.

    Raises:
        Refused: The base model has no such weight, or one of another shape or type.
    """
    patches: dict[str, list[Patch]] = {}
    for update in adapter.updates:
        name, patch = _place(update, base)
        stored = base.tensors[_source(name, base)]
        rows = update.shape[0]
        if patch.row + rows > stored.shape[-2] or update.shape[1] != stored.shape[-1]:
            raise Refused(
                f"The adapter does not fit this base model: its update of `{update.layer}` is "
                f"{update.shape}, and `{name}` is {stored.shape}"
            )
        if stored.dtype not in _DTYPES:
            raise Refused(
                f"`{name}` of the base model is quantized ({stored.dtype}); merge into weights in "
                "bfloat16, float16 or float32"
            )
        patches.setdefault(name, []).append(patch)
    return patches


def _place(update: Update, base: BaseFiles) -> tuple[str, Patch]:
    name = f"{update.layer}.weight"
    if found := base.name_of(name):
        return found, Patch(update)
    if update.layer == HEAD:
        return name, Patch(update)
    if match := _EXPERT.fullmatch(update.layer):
        path, expert, layer = match.groups()
        together = "down_proj" if layer == "down_proj" else "gate_up_proj"
        if stacked := base.name_of(f"{path}.{together}"):
            row = update.shape[0] if layer == "up_proj" else 0
            return stacked, Patch(update, row, int(expert))
    raise Refused(f"The adapter does not fit this base model, which has no `{name}`")


def _source(name: str, base: BaseFiles) -> str:
    """Return the weight of BASE from which NAME is made: the embeddings for a tied last layer."""
    if name in base.tensors:
        return name
    found = [each for each in base.tensors if each.endswith("embed_tokens.weight")]
    if name != f"{HEAD}.weight" or not found:
        raise Refused(f"The base model has no `{name}`")
    return found[0]


def write(adapter: AdapterFile, base: BaseFiles, to: Path) -> None:
    """Write the merged model into the folder TO.

    Raises:
        Refused: The adapter does not fit, or the disk is too full.
    """
    patches = plan(adapter, base)
    head = base.name_of(f"{HEAD}.weight") or f"{HEAD}.weight"
    untied = head in patches and (head not in base.tensors or base.tied)
    extra = base.tensors[_source(head, base)] if untied and head not in base.tensors else None
    check_disk(to, base.bytes + (extra.size if extra else 0))
    names = {shard: shard.name for shard in base.shards}
    if extra and SINGLE in names.values():
        # transformers would read a file of this name alone.
        names = {base.shards[0]: "model-00001-of-00002.safetensors"}
    for shard, name in names.items():
        _write_shard(base, shard, to / name, patches)
    base.copy_companions(to)
    if extra:
        _write_head(extra, base, to, patches[head], names)
    elif (base.folder / INDEX).is_file():
        shutil.copyfile(base.folder / INDEX, to / INDEX)
    if untied:
        config = base.config | {"tie_word_embeddings": False}
        (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def check_disk(to: Path, size: int) -> None:
    """Refuse an export of SIZE bytes that does not fit on the disk of TO."""
    free = shutil.disk_usage(to).free
    if size > free:
        raise Refused(
            f"The export takes {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free in "
            f"{to.parent}; name a folder on another disk with `--to`"
        )


def _write_shard(base: BaseFiles, shard: Path, to: Path, patches: dict[str, list[Patch]]) -> None:
    data, _ = base.headers[shard]
    mine = [item for item in base.tensors.items() if item[1].file == shard]
    with shard.open("rb") as source, to.open("wb") as target:
        _copy(source, target, 0, data)
        for name, stored in sorted(mine, key=lambda item: item[1].start):
            if name not in patches:
                _copy(source, target, stored.start, stored.size)
                continue
            for block in blocks(name, stored, patches[name]):
                target.write(_raw(block))


def _write_head(
    source: StoredTensor,
    base: BaseFiles,
    to: Path,
    patches: Sequence[Patch],
    names: dict[Path, str],
) -> None:
    """Write a last layer of its own, made from the embeddings, and the index that names it."""
    single = len(names) == 1
    file = "model-00002-of-00002.safetensors" if single else "model-lm_head.safetensors"
    head = f"{HEAD}.weight"
    entry = {"dtype": source.dtype, "shape": source.shape, "data_offsets": [0, source.size]}
    header = json.dumps({"__metadata__": {"format": "pt"}, head: entry}).encode()
    header += b" " * (-len(header) % 8)
    embeddings = _source(head, base)
    with (to / file).open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        for block in blocks(embeddings, source, patches):
            target.write(_raw(block))
    places = {name: names[stored.file] for name, stored in base.tensors.items()} | {head: file}
    total = sum(stored.size for stored in base.tensors.values()) + source.size
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (to / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def blocks(name: str, stored: StoredTensor, patches: Sequence[Patch]) -> Iterator[Tensor]:
    """Yield the merged tensor NAME in blocks of rows, in its own data type."""
    *experts, rows, width = stored.shape
    step = max(1, BLOCK // width)
    with safe_open(stored.file, framework="pt") as file:
        whole = file.get_slice(name)
        for expert in range(experts[0]) if experts else [None]:
            mine = [patch for patch in patches if patch.expert == expert]
            for first in range(0, rows, step):
                last = min(rows, first + step)
                if expert is None:
                    block = whole[first:last]
                else:
                    block = whole[expert : expert + 1, first:last][0]
                yield _merge(block, first, mine)


def _merge(block: Tensor, first: int, patches: Sequence[Patch]) -> Tensor:
    """Return BLOCK, whose first row is FIRST, with PATCHES added."""
    merged = block.float()
    for patch in patches:
        start, end = patch.row - first, patch.row + patch.update.shape[0] - first
        low, high = max(0, start), min(len(block), end)
        if low < high:
            part = patch.update.b[low - start : high - start]
            merged[low:high] += patch.update.scale * (part @ patch.update.a)
    return merged.to(block.dtype)


def _raw(block: Tensor) -> bytes:
    return block.contiguous().view(torch.uint8).numpy().tobytes()


def _copy(source: BinaryIO, target: BinaryIO, start: int, size: int) -> None:
    source.seek(start)
    while size:
        part = source.read(min(size, _COPY))
        if not part:
            raise Refused("A file of the base model became shorter while it was read")
        target.write(part)
        size -= len(part)
