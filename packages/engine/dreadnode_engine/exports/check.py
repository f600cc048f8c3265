"""The check of an export: it is loaded in a new process, and its logits are compared."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from dreadnode_engine.errors import Refused
from dreadnode_engine.exports.base_files import BaseFiles

ROWS = (
    "The harbour opens at seven in the morning, and the last ferry leaves at nine.",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "Question: 17 boats carry 23 people each. How many people is that?\nAnswer: 391",
    "Sehr geehrte Damen und Herren, vielen Dank für Ihre Nachricht vom 3. Mai.",
)
"""Texts on which logits are compared; no job trains on them."""
LONGEST = 48
"""Tokens of each text."""
SHARE = 0.8
"""Share of the free memory that a check may use."""
EXACT, ROUNDED = 1e-3, 5e-2
"""Largest difference, by the largest logit: of float32 weights, and of 16-bit ones."""


@dataclass(frozen=True)
class Comparison:
    """The logits of an export beside the engine's.

    Attributes:
        difference: The largest difference.
        effect: The largest difference that the adapter makes to the base model's logits.
        largest: The largest logit.
        tokens: Tokens on which logits were compared.
    """

    difference: float
    effect: float
    largest: float
    tokens: int


def require_memory(base: BaseFiles) -> None:
    """Refuse a check for which the base model does not fit into memory, in float32."""
    needed, free = 4 * base.parameters, psutil.virtual_memory().available * SHARE
    if needed > free:
        raise Refused(
            f"The check loads the model in float32, which takes {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB of memory may be used; `--no-check` exports without it"
        )


def compare(how: str, base: BaseFiles, adapter: Path, export: Path, exact: bool) -> Comparison:
    """Compare the logits of EXPORT, loaded as HOW says, with the engine's for ADAPTER.

    Raises:
        Refused: The export cannot be loaded, or its logits differ by more than rounding.
    """
    with tempfile.TemporaryDirectory(prefix="dn-check-") as temporary:
        folder = Path(temporary)
        (folder / "rows.json").write_text(json.dumps(_rows(base)))
        expected = _logits("engine", base, adapter, folder)
        found = _logits(how, base, export, folder)
    pairs = [(found[name], expected[name], name.partition(".")[2]) for name in found]
    largest = max(float(logits.abs().max()) for _, logits, _ in pairs)
    comparison = Comparison(
        difference=max(float((a - b).abs().max()) for a, b, _ in pairs),
        effect=max(float((b - expected[f"base.{n}"]).abs().max()) for _, b, n in pairs),
        largest=largest,
        tokens=sum(len(logits) for _, logits, _ in pairs),
    )
    # A comparison with NaN is false.
    if not comparison.difference <= (EXACT if exact else ROUNDED) * largest:
        raise Refused(
            f"The export computes other logits than the engine: they differ by up to "
            f"{comparison.difference:.2g}, where the largest logit is {largest:.2g}; nothing was "
            "written"
        )
    return comparison


def _rows(base: BaseFiles) -> list[list[int]]:
    file = base.folder / "tokenizer.json"
    if not file.is_file():
        raise Refused(
            f"The check needs `tokenizer.json`, which {base.folder} lacks; `--no-check` "
            "exports without it"
        )
    tokenizer = Tokenizer.from_file(str(file))
    limit = min(LONGEST, int(base.config.get("max_position_embeddings") or LONGEST))
    rows = [tokenizer.encode(text).ids[:limit] for text in ROWS]
    return [row for row in rows if row]


def _logits(how: str, base: BaseFiles, folder: Path, work: Path) -> dict[str, Tensor]:
    out = work / f"{how}.safetensors"
    command = [sys.executable, "-P", "-m", "dreadnode_engine.exports.logits", how]
    command += [str(each) for each in (base.folder, folder, work / "rows.json", out)]
    ended = subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        reason = (ended.stderr.strip() or f"it ended with {ended.returncode}").splitlines()[-1]
        name = "The engine" if how == "engine" else "The export's check"
        raise Refused(f"{name} could not compute logits: {reason[:300]}; nothing was written")
    return load_file(out)
