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
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Start an engine that keeps its data in FOLDER, and yield its address."""
    command = (sys.executable, "-m", "dreadnode_engine", "serve", "--no-hf-cache")
    with subprocess.Popen(
        [*command, "--data-dir", str(folder), *arguments],
        env={**os.environ, **environment, "DREADNODE_ENGINE_KEY": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().rpartition(" ")[2].strip()
        finally:
            process.terminate()


def use(url: str) -> None:
    """Let clients of the SDK find the engine at URL."""
    os.environ |= {"TINKER_BASE_URL": url, "TINKER_API_KEY": KEY, "TINKER_TELEMETRY": "0"}


@contextmanager
def engine(folder: Path) -> Iterator[Path]:
    """Serve a model of the folder that is yielded, under the name of MODEL, for the tinker SDK."""
    sys.path.insert(0, str(ROOT))
    from conftest import write_tiny_model

    model = write_tiny_model(folder / "model", "qwen3")
    served = ("--no-stand-in", "--threads", "1", "--model", f"{MODEL}={model}")
    with serving(folder / "engine", *served) as url:
        use(url)
        yield model
