"""Fingerprints of base weights: fast enough for every start, and different for other weights.

Two fine-tunes of one model have the same configuration, names, shapes and sizes. So a few blocks of
the weights are read too, spread evenly over all files. A copy of a model has the fingerprint of the
original: paths and file times do not matter.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BFLOAT16 = "+bfloat16"
"""Ends the fingerprint of weights in mixed precision on a CPU, which compute other numbers."""
BLOCKS = 64
"""How many blocks of the weights are read."""
BLOCK_BYTES = 4096
HEADER_BYTES = 100_000_000
"""The longest header that a safetensors file may have."""
_INCIDENTAL = ("_name_or_path", "transformers_version")
"""Settings that do not change what a model computes."""


def fingerprint(config: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits of a model's CONFIG and safetensors FILES."""
    settings = {name: value for name, value in config.items() if name not in _INCIDENTAL}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    files = sorted(files, key=lambda file: file.name)
    sizes = [file.stat().st_size for file in files]
    places = [sum(sizes) * number // BLOCKS for number in range(BLOCKS)]
    start = 0
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"\0{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(length, HEADER_BYTES)))
            for place in places:
                if start <= place < start + size:
                    file.seek(place - start)
                    digest.update(file.read(BLOCK_BYTES))
        start += size
    return digest.hexdigest()[:16]


def parse(fingerprint: str) -> tuple[str, str]:
    """Return the fingerprint of the files, and the data type that the weights are kept in."""
    files, mark, _ = fingerprint.partition(BFLOAT16)
    return files, "bfloat16" if mark else "float32"
