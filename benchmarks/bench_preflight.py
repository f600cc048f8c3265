"""Preflight: rows a second and peak memory, beside a plain loop of the tokenizer.

The plain loop reads each line of the same file and calls `apply_chat_template`. The preflight is
`python -m dreadnode_runtime check`, which also finds what carries loss, lengths, equal rows and the
price. Both run in processes of their own; what a start takes, measured on one row, is subtracted.
Memory is that of the largest process, on a hundredth of the rows and on all.
Aim: at least 0.8 times the rows a second of the plain loop, and memory that does not grow.

`BENCH_PREFLIGHT_ROWS` sets the number of rows, `BENCH_PREFLIGHT_TOKENIZER` a folder with the
tokenizer of `Qwen/Qwen3-8B`: else that of `make tokenizers` is used, or a tiny one.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_rows import ROOT, _check, _tiny_tokenizer, _written

ROWS = int(os.environ.get("BENCH_PREFLIGHT_ROWS", "20000"))
PLAIN = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2], local_files_only=True)
tokens = 0
with open(sys.argv[1], encoding="utf-8") as lines:
    for line in lines:
        made = tokenizer.apply_chat_template(json.loads(line)["messages"])
        tokens += len(made["input_ids"] if hasattr(made, "keys") else made)
print(tokens)
"""


def main() -> int:
    """Print rows a second of both, their ratio, and the memory of the preflight."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        tokenizer = os.environ.get("BENCH_PREFLIGHT_TOKENIZER") or _qwen3(folder)
        few = max(ROWS // 100, 2)
        files = {count: _written(folder, count) for count in (1, few, ROWS)}
        plain = _plain(files[ROWS], tokenizer) - _plain(files[1], tokenizer)
        start = _check(ROOT, files[1], tokenizer)
        small, all_rows = (_check(ROOT, files[count], tokenizer) for count in (few, ROWS))
    busy = all_rows.busy - start.busy
    print(f"    plain: {ROWS / plain:7,.0f} rows a processor second of {ROWS:,}")
    print(
        f"preflight: {ROWS / busy:7,.0f} rows a processor second, "
        f"{ROWS / (all_rows.seconds - start.seconds):7,.0f} a second, {all_rows.memory:,.0f} MiB "
        f"({small.memory:,.0f} MiB with {few:,} rows)"
    )
    print(
        f"the preflight checks {plain / busy:.2f} times the rows of the plain loop (aim: 0.8), and "
        f"memory grows by {all_rows.memory / small.memory - 1:.0%} from {few:,} to {ROWS:,} rows"
    )
    return 0


def _qwen3(folder: Path) -> str:
    real = ROOT / ".tokenizers" / "qwen3"
    return str(real) if real.is_dir() else _tiny_tokenizer(folder)


def _plain(rows: Path, tokenizer: str) -> float:
    """Return the processor seconds of the plain loop over ROWS."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", PLAIN, str(rows), tokenizer]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
