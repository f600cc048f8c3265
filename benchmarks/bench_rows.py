"""The check of chat rows: rows a second and memory, beside another build of this project.

`python -m dreadnode_runtime check` renders every row of a file, as a job's preflight does. The
builds take turns; what a start takes, measured on one row, is subtracted, and the best of each
counts. Processor seconds are given too: other work on the machine changes them less. Memory is that
of the largest process, on a tenth of the rows and on all.

`BENCH_ROWS` sets the number of rows. `BENCH_ROWS_BASELINE` names a checkout of the other build,
which checks the first `BENCH_ROWS_OF_BASELINE` of them, `BENCH_ROWS_ROUNDS` how often they do so,
`BENCH_ROWS_MODEL` the catalog model, and `BENCH_ROWS_TOKENIZER` a folder with its tokenizer; a tiny
one is made without the last.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode_api.training.defaults import complete

ROOT = Path(__file__).resolve().parent.parent
ROWS = int(os.environ.get("BENCH_ROWS", "100000"))
ROWS_OF_BASELINE = min(ROWS, int(os.environ.get("BENCH_ROWS_OF_BASELINE", "5000")))
ROUNDS = int(os.environ.get("BENCH_ROWS_ROUNDS", "2"))
MODEL = os.environ.get("BENCH_ROWS_MODEL", "Qwen/Qwen3-8B")
WORDS = str.split(
    "the pier opens at low tide and closes when the harbour board says so because of wind rain or "
    "a boat that comes in late with fish from the north where nobody has seen one for a week"
)


@dataclass(frozen=True)
class Took:
    """One check: seconds, processor seconds, the largest memory in MiB, and the answer."""

    seconds: float
    busy: float
    memory: float
    answer: dict[str, Any]


def main() -> int:
    """Print rows a second of each build, and their ratio."""
    builds, counts = {"ours": ROOT}, {"ours": ROWS}
    if baseline := os.environ.get("BENCH_ROWS_BASELINE"):
        builds["baseline"] = Path(baseline).resolve()
        counts["baseline"] = ROWS_OF_BASELINE
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        tokenizer = os.environ.get("BENCH_ROWS_TOKENIZER") or _tiny_tokenizer(folder)
        files = {
            count: _written(folder, count)
            for each in counts.values()
            for count in (1, each // 10, each)
        }
        starts = {name: _check(root, files[1], tokenizer) for name, root in builds.items()}
        tenths = {
            name: _check(root, files[counts[name] // 10], tokenizer)
            for name, root in builds.items()
        }
        rounds = [
            {name: _check(root, files[counts[name]], tokenizer) for name, root in builds.items()}
            for _ in range(ROUNDS)
        ]
    walls, busies = {}, {}
    for name in builds:
        count = counts[name]
        best = min((each[name] for each in rounds), key=lambda took: took.seconds)
        walls[name] = count / max(best.seconds - starts[name].seconds, 1e-9)
        busy = min(each[name].busy for each in rounds) - starts[name].busy
        busies[name] = count / max(busy, 1e-9)
        print(
            f"{name:>9}: {walls[name]:7,.0f} rows a second of {count:,}, {busies[name]:7,.0f} a "
            f"processor second, {best.answer['tokens']:,} tokens, {best.memory:,.0f} MiB "
            f"({tenths[name].memory:,.0f} MiB with a tenth of the rows)"
        )
    if "baseline" in builds:
        print(
            f"ours checks {walls['ours'] / walls['baseline']:.2f} times the rows a second, and "
            f"{busies['ours'] / busies['baseline']:.2f} times the rows a processor second"
        )
    return 0


def _check(root: Path, rows: Path, tokenizer: str) -> Took:
    """Check ROWS with the build at ROOT, in a process of its own."""
    config = {"dataset_ref": {"name": "a", "version": "1"}, "max_sequence_length": 4096}
    question = {
        "model": MODEL,
        "rehearsal": False,
        "trained_model": MODEL,
        "tokenizer": tokenizer,
        "trainer_type": "sft",
        # The server completes a config; an earlier build has other settings and defaults.
        "config": complete("sft", config) if root == ROOT else config,
        "datasets": {"train": str(rows), "eval": None},
    }
    paths = os.pathsep.join(str(root / "packages" / name) for name in ("runtime", "sdk"))
    began = time.perf_counter()
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        asked.write(json.dumps(question).encode() + b"\n")
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "dreadnode_runtime", "check"],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=rows.parent,
            stdin=asked,
            stdout=answered,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        answered.seek(0)
        answer = json.loads(answered.read())
    assert answer["ok"] is True, answer
    assert answer["usable"] == answer["rows"], answer
    return Took(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, answer)


def _written(folder: Path, count: int) -> Path:
    """Write COUNT conversations of one to four questions, and return the file."""
    path = folder / f"{count}.jsonl"
    dice = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(least, most))).capitalize() + "."

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": "system", "content": "You answer questions of visitors. " * 8}]
            for _ in range(dice.randint(1, 4)):
                messages.append({"role": "user", "content": text(8, 60)})
                messages.append({"role": "assistant", "content": text(20, 120)})
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def _tiny_tokenizer(folder: Path) -> str:
    sys.path.insert(0, str(ROOT))
    from conftest import write_tiny_model

    return str(write_tiny_model(folder / "model", "qwen3"))


if __name__ == "__main__":
    sys.exit(main())
