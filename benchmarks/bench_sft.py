"""Our supervised loop compared with tinker-cookbook's, on one engine with equal settings.

Both go through the official SDK against the same process: rows to tokens, every step, a checkpoint
each ten steps, and the last save. Ours also exports the adapter and fetches its files. They take
turns; the best of each counts, and only their ratio means anything. Then again with a client that
has something to do in every step, such as telling others of it, in which it waits for nobody.
`BENCH_SFT_ROWS` and `BENCH_SFT_ROUNDS` set how long it takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_beside import MODEL, Silence, engine

ROWS = int(os.environ.get("BENCH_SFT_ROWS", "128"))
ROUNDS = int(os.environ.get("BENCH_SFT_ROUNDS", "2"))
BATCH, EPOCHS = 8, 2
STEPS = EPOCHS * ROWS // BATCH
WORK = 0.1
"""Seconds that a busy client does something else in each step."""


@dataclass(frozen=True)
class Took:
    """Seconds of a run: in all, of the client's processor, and of its other work."""

    wall: float
    busy: float
    work: float

    @property
    def idle(self) -> float:
        """Milliseconds a step in which the client waited for the engine."""
        return 1000 * (self.wall - self.busy - self.work) / STEPS


def main() -> int:
    """Print how long each loop takes, and their ratio."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as work, engine(Path(work)) as model:
        rows = Path(work) / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in conversations()))
        compare(Path(work), model, rows)
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
    """Let both take turns, with an idle and with a busy client, the first turn not counted."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    talks = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    loops = {
        "cookbook": lambda to, work: cookbook(to, talks, tokenizer, work),
        "ours": lambda to, work: ours(to, model, rows, work),
    }
    for work in (0.0, WORK):
        took: dict[str, list[Took]] = {name: [] for name in loops}
        for turn in range(ROUNDS + (work == 0)):
            for name, loop in loops.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                asyncio.run(loop(folder / f"{name}-{work}-{turn}", work))
                wall = time.perf_counter() - began
                took[name].append(Took(wall, time.process_time() - began_cpu, work * STEPS))
        counted = {name: each[work == 0 :] for name, each in took.items()}
        best = {name: min(each, key=lambda t: t.wall) for name, each in counted.items()}
        busy = f"a client with {1000 * work:.0f} ms of other work a step" if work else "the loops"
        print(f"{busy}, {STEPS} steps:")
        for name, each in best.items():
            print(
                f"{name:>9}: {each.wall:6.2f} s, {1000 * each.busy / STEPS:5.1f} ms of the "
                f"client's processor and {each.idle:5.1f} ms of waiting a step"
            )
        ratio = best["ours"].wall / best["cookbook"].wall
        print(f"ours takes {ratio:.2f} of the cookbook's time")


async def ours(folder: Path, model: Path, rows: Path, work: float) -> None:
    """Train with this project's loop, whose client does its WORK when it reports a step."""
    from dreadnode_api.training.defaults import complete
    from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
    from dreadnode_runtime.backend.trainer import Adapter
    from dreadnode_runtime.control.events import Stop
    from dreadnode_runtime.data.load_rendering import load_rendering
    from dreadnode_runtime.data.prepare import prepare
    from dreadnode_runtime.jobs.config import SftConfig, read_config
    from dreadnode_runtime.jobs.outcome import Outcome
    from dreadnode_runtime.sft.loop import Plan, train
    from dreadnode_runtime.sft.metric_history import History

    given = {"dataset_ref": {"name": "a", "version": "1"}, "batch_size": BATCH, "epochs": EPOCHS}
    config = read_config(SftConfig, complete("sft", {"max_sequence_length": 2048, **given}))
    async with tinker_trainer(
        base_model=MODEL,
        adapter=Adapter(rank=16),
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
        plan = Plan(config, examples)
        teller: Any = Busy(work)
        await train(plan, trainer, teller, Stop(), History(), Outcome())
        await trainer.export("final", folder)


async def cookbook(folder: Path, talks: list[Any], tokenizer: Any, work: float) -> None:
    """Train with tinker-cookbook's supervised loop, whose client does its WORK with each batch."""
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
            time.sleep(work)
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


class Busy(Silence):
    """Does some other work when a step is reported."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def report(self, event_type: str, **_: Any) -> None:
        """Hear an event."""
        if event_type == "step_complete":
            time.sleep(self._seconds)


if __name__ == "__main__":
    sys.exit(main())
