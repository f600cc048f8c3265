"""A short request beside a client with long ones, and what the long ones lose by it.

Client A sends 8 requests of 8 samples each; client B then sends one request of 20 tokens. B is
measured alone and beside A; A is measured until all its samples are there, with B's request in the
middle. Each build serves the stand-in in an engine of its own, and the builds take turns.
Aims: B within twice its time alone plus one decode step; A at least 0.9 of the other build's rate.

`BENCH_TURNS_BASELINE` names a checkout of the other build, `BENCH_TURNS_TOKENS` the tokens of each
of A's samples (128 by default).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinker
from engine_beside import KEY, serving

MODEL = "stand-in/SmolLM2-135M-Instruct"
TOKENS = int(os.environ.get("BENCH_TURNS_TOKENS", "128"))
REQUESTS, SAMPLES, SHORT = 8, 8, 20


@contextmanager
def engine(folder: Path, build: Path | None) -> Iterator[str]:
    """Serve the stand-in with BUILD (None: this one), and yield the address."""
    source = {"PYTHONPATH": str(build / "packages" / "engine")} if build else {}
    with serving(folder, **source) as url:
        yield url


def sampler(url: str) -> Any:
    """Return a sampling client of its own session, as another user's would be."""
    service = tinker.ServiceClient(base_url=url, api_key=KEY)
    return service.create_sampling_client(base_model=MODEL).result()


def ask(client: Any, samples: int, tokens: int, seed: int) -> Any:
    """Send one request that samples TOKENS without a stop, and return its future."""
    return client.sample(
        prompt=tinker.ModelInput.from_ints(list(range(100, 140))),
        num_samples=samples,
        sampling_params=tinker.SamplingParams(max_tokens=tokens, seed=seed, stop=[49151]),
    )


def measure(url: str) -> tuple[float, float, float, float]:
    """Return B's seconds alone and beside A, A's tokens per second, and a step's seconds."""
    busy, single = sampler(url), sampler(url)
    ask(single, 1, SHORT, 0).result()
    started = time.perf_counter()
    ask(single, 1, SHORT, 1).result()
    alone = time.perf_counter() - started
    started = time.perf_counter()
    waiting = [ask(busy, SAMPLES, TOKENS, seed) for seed in range(REQUESTS)]
    time.sleep(5)
    joined = time.perf_counter()
    ask(single, 1, SHORT, 2).result()
    beside = time.perf_counter() - joined
    made = sum(len(s.tokens) for future in waiting for s in future.result().sequences)
    seconds = time.perf_counter() - started
    return alone, beside, made / seconds, seconds / TOKENS


def main() -> int:
    """Print the figures of both builds."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0"}
    builds: dict[str, Path | None] = {"ours": None}
    if baseline := os.environ.get("BENCH_TURNS_BASELINE"):
        builds["baseline"] = Path(baseline).resolve()
    rates = {}
    for name, build in builds.items():
        with tempfile.TemporaryDirectory() as folder, engine(Path(folder), build) as url:
            alone, beside, rates[name], step = measure(url)
        print(
            f"{name:>9}: one request alone {alone:.2f} s, beside {REQUESTS * SAMPLES} sequences "
            f"{beside:.2f} s (twice alone and one step: {2 * alone + step:.2f} s); "
            f"the others sample {rates[name]:.0f} tokens/s",
            flush=True,
        )
    if "baseline" in rates:
        print(
            f"the others sample at {rates['ours'] / rates['baseline']:.2f} of the baseline's rate"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
