"""A real engine with a tiny random model, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "Qwen/Qwen3-8B"
KEY = "tml-key-of-the-benchmark"


class Silence:
    """Accepts the events of a loop, and does nothing."""

    def tell(self, *_: Any, **__: Any) -> None:
        """Hear an event."""

    def phase(self, *_: Any) -> None:
        """Hear what the job is doing."""

    def log(self, *_: Any, **__: Any) -> None:
        """Hear a line of the log."""


@contextmanager
def engine(folder: Path) -> Iterator[Path]:
    """Serve a model of the folder that is yielded, under the name of MODEL, for the tinker SDK."""
    sys.path.insert(0, str(ROOT))
    from conftest import write_tiny_model

    model = write_tiny_model(folder / "model", "qwen3")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "dreadnode_engine", "serve", "--no-stand-in"),
            *("--no-hf-cache", "--data-dir", folder / "engine", "--threads", "1"),
            *("--model", f"{MODEL}={model}"),
        ],
        env={**os.environ, "DREADNODE_ENGINE_KEY": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            os.environ |= {
                "TINKER_BASE_URL": process.stdout.readline().rpartition(" ")[2].strip(),
                "TINKER_API_KEY": KEY,
                "TINKER_TELEMETRY": "0",
            }
            yield model
        finally:
            process.kill()
