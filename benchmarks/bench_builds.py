"""Two builds of the engine, or two data types of one, in the same run: training, sampling, memory.

Each serves the stand-in in an engine of its own. Rounds alternate between the two, so that other
load falls on both alike, and the median ratio of the rounds counts.

`BENCH_BUILDS_BASELINE` names a checkout of the other build; without it, the other engine is this
build in float32. `BENCH_BUILDS_ROUNDS` is the number of rounds (3 by default),
`BENCH_BUILDS_ONLY` a part of the names of the comparisons to make.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from engine_beside import KEY, serving
from tinker import types

STAND_IN = "stand-in/SmolLM2-135M-Instruct"
ROUNDS = int(os.environ.get("BENCH_BUILDS_ROUNDS", "3"))
ONLY = os.environ.get("BENCH_BUILDS_ONLY", "")
ADAM = types.AdamParams(learning_rate=1e-4)
NEVER = [49151]
"""A token that the stand-in does not sample, so that each completion has its whole length."""
HISTORY = 1000

Work = Callable[["Client"], float]
"""Does one round of a comparison, and returns its seconds."""


class Client:
    """A client of one engine: one run and four adapters.

    Attributes:
        random: gives the same prompts to both engines, and new ones in each round.
    """

    def __init__(self, url: str) -> None:
        """Make the run and save the adapters."""
        self.service = tinker.ServiceClient(base_url=url, api_key=KEY)
        self.run = self.service.create_lora_training_client(STAND_IN, rank=16, seed=1).result()
        self.base = self.service.create_sampling_client(base_model=STAND_IN).result()
        self.adapters = [self.run.save_weights_and_get_sampling_client().result() for _ in range(4)]
        self.random = np.random.default_rng(0)

    def tokens(self, count: int) -> list[int]:
        """COUNT random tokens."""
        tokens: list[int] = self.random.integers(3, 40_000, count).tolist()
        return tokens

    def step(self, lengths: list[int]) -> float:
        """Take a training step on sequences of these LENGTHS."""
        rows = [self.tokens(length + 1) for length in lengths]
        return self.learn(
            [
                types.Datum(
                    model_input=types.ModelInput.from_ints(row[:-1]),
                    loss_fn_inputs={"target_tokens": row[1:]},
                )
                for row in rows
            ],
            "cross_entropy",
        )

    def learn(self, data: list[types.Datum], loss: Any) -> float:
        """Take one optimizer step on DATA."""
        started = time.perf_counter()
        backward = self.run.forward_backward(data, loss)
        optimized = self.run.optim_step(ADAM)
        backward.result()
        optimized.result()
        return time.perf_counter() - started

    def sample(self, count: int, samplers: list[Any]) -> float:
        """Sample COUNT completions of 64 tokens after different prompts, all at once."""
        started = time.perf_counter()
        futures = [
            ask(samplers[number % len(samplers)], self.tokens(40), 64) for number in range(count)
        ]
        for future in futures:
            future.result()
        return time.perf_counter() - started

    def second_turn(self) -> float:
        """Ask again with a history of a thousand tokens, and return the time to the first token."""
        history = self.tokens(HISTORY)
        answer = ask(self.base, history, 16).result().sequences[0].tokens
        started = time.perf_counter()
        ask(self.base, [*history, *answer, *self.tokens(20)], 1).result()
        return time.perf_counter() - started

    def rl_step(self) -> float:
        """Sample a group of 8 for each of 8 prompts, train on all with advantages, and save."""
        prompts = [self.tokens(40) for _ in range(8)]
        started = time.perf_counter()
        sampler = self.run.save_weights_and_get_sampling_client().result()
        groups = [ask(sampler, prompt, 64, samples=8) for prompt in prompts]
        data = []
        for prompt, group in zip(prompts, groups, strict=True):
            for number, sequence in enumerate(group.result().sequences):
                row = [*prompt, *sequence.tokens]
                ahead = len(prompt) - 1
                data.append(
                    types.Datum(
                        model_input=types.ModelInput.from_ints(row[:-1]),
                        loss_fn_inputs={
                            "target_tokens": row[1:],
                            "logprobs": [0.0] * ahead + list(sequence.logprobs or []),
                            "advantages": [0.0] * ahead
                            + [(number - 3.5) / 3.5] * len(sequence.tokens),
                        },
                    )
                )
        self.learn(data, "importance_sampling")
        return time.perf_counter() - started


def ask(sampler: Any, prompt: list[int], tokens: int, samples: int = 1) -> Any:
    """Send one request for completions of TOKENS, and return its future."""
    return sampler.sample(
        prompt=types.ModelInput.from_ints(prompt),
        num_samples=samples,
        sampling_params=types.SamplingParams(max_tokens=tokens, seed=1, stop=NEVER),
    )


COMPARISONS: dict[str, Work] = {
    "SFT step, 8 of 60 tokens": lambda client: client.step([60] * 8),
    "SFT step, 2 of 512 tokens": lambda client: client.step([512] * 2),
    "SFT step, 8 of 16 to 512 tokens": lambda client: client.step(
        client.random.integers(16, 513, 8).tolist()
    ),
    "sampling, one": lambda client: client.sample(1, [client.base]),
    "sampling, 16 at once": lambda client: client.sample(16, [client.base]),
    "sampling, 16 over 4 adapters": lambda client: client.sample(16, client.adapters),
    "second turn after 1,000 tokens": Client.second_turn,
    "RL step, 8 prompts of 8 completions": Client.rl_step,
}


def peak_gib(url: str) -> float:
    """The highest resident memory of the process that serves URL, in GiB."""
    port = int(url.rpartition(":")[2])
    import psutil

    for process in psutil.process_iter():
        try:
            listens = any(
                c.laddr and c.laddr.port == port and c.status == "LISTEN"
                for c in process.net_connections()
            )
        except psutil.Error:
            continue
        if listens:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            line = next(one for one in status.splitlines() if one.startswith("VmHWM"))
            return int(line.split()[1]) / 2**20
    return float("nan")


def main() -> None:
    """Print the ratio of each comparison."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0"}
    baseline = os.environ.get("BENCH_BUILDS_BASELINE")
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        ours = stack.enter_context(serving(folders[0], "--dtype", "auto"))
        if baseline:
            source = {"PYTHONPATH": str(Path(baseline).resolve() / "packages" / "engine")}
            theirs = stack.enter_context(serving(folders[1], **source))
        else:
            theirs = stack.enter_context(serving(folders[1], "--dtype", "float32"))
        clients = Client(ours), Client(theirs)
        for name, work in COMPARISONS.items():
            if ONLY not in name:
                continue
            for client in clients:
                work(client)
            rounds = [tuple(work(client) for client in clients) for _ in range(ROUNDS)]
            ratio = statistics.median(slow / quick for quick, slow in rounds)
            quick, slow = (statistics.median(part) for part in zip(*rounds, strict=True))
            print(f"{name}: {ratio:.2f} ({quick:.2f} s, {slow:.2f} s)", flush=True)
        peaks = peak_gib(ours), peak_gib(theirs)
        print(f"peak memory: {peaks[0] / peaks[1]:.2f} ({peaks[0]:.2f} GiB, {peaks[1]:.2f} GiB)")


if __name__ == "__main__":
    main()
