"""Our supervised loop beside tinker-cookbook's, on one engine, with the same rows and settings.

Both go through the official SDK against the same process: rows to tokens, every step, a checkpoint
each ten steps, and the last save. Ours also exports the adapter and fetches its files. They take
turns; the best of each counts, and only their ratio means anything.

tinker-cookbook's loop needs packages that this project does not:
`pip install --no-deps chz blobfile termcolor cloudpickle pycryptodomex lxml datasets pyarrow pandas
dill multiprocess xxhash python-dateutil six pytz`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "Qwen/Qwen3-8B"
KEY = "tml-key-of-the-benchmark"
ROWS, BATCH, EPOCHS, ROUNDS = 192, 8, 2, 3
STEPS = EPOCHS * ROWS // BATCH


def main() -> int:
    """Print how long each loop takes, and their ratio."""
    for module in ("chz", "blobfile", "datasets"):
        if importlib.util.find_spec(module) is None:
            print(f"skipped: tinker-cookbook's loop needs `{module}` (see the top of this file)")
            return 0
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(ROOT))
    from conftest import write_tiny_model

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model = write_tiny_model(folder / "model", "qwen3")
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in conversations()))
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
        ) as engine:
            try:
                assert engine.stdout is not None
                url = engine.stdout.readline().rpartition(" ")[2].strip()
                os.environ |= {
                    "TINKER_BASE_URL": url,
                    "TINKER_API_KEY": KEY,
                    "TINKER_TELEMETRY": "0",
                }
                compare(folder, model, rows)
            finally:
                engine.kill()
    return 0


def conversations() -> list[dict[str, Any]]:
    """Return rows with one question and one answer each, of many lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Tell me about number {n}." + " Please." * (n % 7)},
                {"role": "assistant", "content": f"It is {n}." + " It really is." * (n % 11)},
            ]
        }
        for n in range(ROWS)
    ]


def compare(folder: Path, model: Path, rows: Path) -> None:
    """Let both take turns, the first of which is not counted."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    wall: dict[str, list[float]] = {"cookbook": [], "ours": []}
    busy: dict[str, list[float]] = {"cookbook": [], "ours": []}
    for turn in range(ROUNDS + 1):
        talks = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
        for name in wall:
            to = folder / f"{name}-{turn}"
            run = ours(to, model, rows) if name == "ours" else cookbook(to, talks, tokenizer)
            began, began_cpu = time.perf_counter(), time.process_time()
            asyncio.run(run)
            if turn:
                wall[name].append(time.perf_counter() - began)
                busy[name].append(time.process_time() - began_cpu)
    for name in wall:
        print(
            f"{name:>9}: {min(wall[name]):6.2f} s for {STEPS} steps, "
            f"{1000 * min(busy[name]) / STEPS:5.1f} ms of the client's processor a step"
        )
    print(f"ours takes {min(wall['ours']) / min(wall['cookbook']):.2f} of the cookbook's time")


async def ours(folder: Path, model: Path, rows: Path) -> None:
    """Train with this project's loop."""
    from dreadnode_runtime.config import SftConfig
    from dreadnode_runtime.history import History
    from dreadnode_runtime.prepare import prepare
    from dreadnode_runtime.rendering import load_rendering
    from dreadnode_runtime.report import Stop
    from dreadnode_runtime.sft import Plan, train
    from dreadnode_runtime.tinker_trainer import tinker_trainer
    from dreadnode_runtime.work import Outcome

    config = SftConfig.model_validate(
        {"dataset_ref": {"name": "a", "version": "1"}, "batch_size": BATCH, "epochs": EPOCHS}
    )
    async with tinker_trainer(
        base_model=MODEL,
        rank=16,
        seed=0,
        optimizer=config.optimizer(),
        resume=None,
        metadata={},
    ) as trainer:
        rendering = load_rendering(MODEL, rehearsal=False, tokenizer=str(model))
        examples: list[Any] = []
        prepare(
            rows,
            rendering,
            max_length=config.max_sequence_length,
            train_on=config.train_on,
            keep=examples.append,
        )
        plan = Plan(config, examples, config.total_steps(len(examples)))
        silence: Any = _Silence()
        await train(plan, trainer, silence, Stop(), History(), Outcome())
        await trainer.export("final", folder)


async def cookbook(folder: Path, talks: list[Any], tokenizer: Any) -> None:
    """Train with tinker-cookbook's supervised loop."""
    import chz
    from tinker_cookbook import renderers
    from tinker_cookbook.supervised import train as supervised
    from tinker_cookbook.supervised.data import conversation_to_datum
    from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder
    from tinker_cookbook.tokenizer_utils import register_tokenizer

    register_tokenizer(MODEL, lambda: tokenizer)
    renderer = renderers.get_renderer("qwen3", tokenizer)
    what = renderers.TrainOnWhat.LAST_ASSISTANT_MESSAGE

    class Rows(SupervisedDataset):  # type: ignore[misc]
        def get_batch(self, index: int) -> list[Any]:
            batch = talks[index * BATCH : (index + 1) * BATCH]
            return [conversation_to_datum(talk, renderer, 2048, what) for talk in batch]

        def set_epoch(self, seed: int = 0) -> None: ...

        def __len__(self) -> int:
            return len(talks) // BATCH

    @chz.chz
    class Builder(SupervisedDatasetBuilder):  # type: ignore[misc]
        def __call__(self) -> tuple[Any, None]:
            return Rows(), None

    await supervised.main(
        supervised.Config(
            log_path=str(folder),
            model_name=MODEL,
            recipe_name="benchmark",
            dataset_builder=Builder(),
            renderer_name="qwen3",
            learning_rate=1e-4,
            lr_schedule="constant",
            num_epochs=EPOCHS,
            lora_rank=16,
            save_every=10,
            eval_every=0,
            ttl_seconds=None,
        )
    )


class _Silence:
    def tell(self, *_: Any, **__: Any) -> None: ...

    def phase(self, *_: Any) -> None: ...


if __name__ == "__main__":
    sys.exit(main())
