"""Two workers with one thread each, compared with one engine with two threads.

Four runs train at the same time, each in a client of its own, on the stand-in. Both engines are
there all the time, and rounds alternate between them, so that other load falls on both alike.
Printed are tokens per second, the ratio, and the longest time that a step of any run took.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tinker
from engine_beside import KEY, serving
from tinker import types

STAND_IN = "stand-in/SmolLM2-135M-Instruct"
RUNS, STEPS, SEQUENCES, TOKENS = 4, 3, 8, 60
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ADAM = types.AdamParams(learning_rate=1e-4)


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[list[tinker.TrainingClient]]:
    """Start an engine with ARGUMENTS, and make its runs."""
    with serving(folder, *arguments) as url:
        yield [
            tinker.ServiceClient(base_url=url, api_key=KEY)
            .create_lora_training_client(STAND_IN, rank=16, seed=number)
            .result()
            for number in range(RUNS)
        ]


def batch(seed: int) -> list[types.Datum]:
    """Sequences of equal length, so that every step is equally long."""
    random = np.random.default_rng(seed)
    rows = random.integers(3, 40_000, (SEQUENCES, TOKENS + 1)).tolist()
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": row[1:]},
        )
        for row in rows
    ]


def train(run: tinker.TrainingClient) -> list[float]:
    """Take the steps of one run, and return how long each took."""
    taken = []
    for step in range(STEPS):
        started = time.perf_counter()
        run.forward_backward(batch(step), "cross_entropy").result()
        run.optim_step(ADAM).result()
        taken.append(time.perf_counter() - started)
    return taken


def together(runs: list[tinker.TrainingClient]) -> tuple[float, list[float]]:
    """Train all RUNS at once; return tokens per second, and how long each step took."""
    started = time.perf_counter()
    with ThreadPoolExecutor(RUNS) as pool:
        taken = [seconds for each in pool.map(train, runs) for seconds in each]
    tokens = RUNS * STEPS * SEQUENCES * TOKENS
    return tokens / (time.perf_counter() - started), taken


def main() -> None:
    """Alternate between the engines and print the comparison."""
    os.environ["TINKER_TELEMETRY"] = "0"
    with tempfile.TemporaryDirectory() as name:
        two, one = Path(name, "two"), Path(name, "one")
        with (
            served(two, "--workers", "2", "--threads", "1") as spread,
            served(one, "--threads", "2") as single,
        ):
            # The first round loads the weights.
            together(spread)
            together(single)
            pairs = [(together(spread), together(single)) for _ in range(ROUNDS)]
    ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
    for label, index in (("two workers, one thread each", 0), ("one engine with two threads", 1)):
        rates = [pair[index][0] for pair in pairs]
        steps = [seconds for pair in pairs for seconds in pair[index][1]]
        print(
            f"{label}: {statistics.median(rates):.0f} tokens/s; a step takes "
            f"{statistics.median(steps):.2f} s, at most {max(steps):.2f} s"
        )
    print(f"two workers over one engine, {RUNS} runs at once: {ratio:.2f}")


if __name__ == "__main__":
    main()
