"""Reinforcement learning with slow rewards: `fully_async` compared with `sync`, on one engine.

Both take the same steps on the same prompts, through the official SDK against the same process. A
reward takes a tenth of a second, and each eighth one a second and more, as a reward that asks a
model or a test suite does: a step of `sync` waits for its slowest answer, and the engine with it.
They take turns; the best of each counts. `BENCH_RL_STEPS` and `BENCH_RL_ROUNDS` set the length.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from engine_beside import MODEL, Silence, engine

STEPS = int(os.environ.get("BENCH_RL_STEPS", "10"))
ROUNDS = int(os.environ.get("BENCH_RL_ROUNDS", "2"))
QUICK, SLOW, EVERY = 0.1, 1.2, 8
MODES: dict[str, dict[str, Any]] = {
    "sync": {},
    "one_step_off_async": {"max_steps_off_policy": 1},
    "fully_async": {"max_steps_off_policy": 4},
}


def main() -> int:
    """Print the steps a minute of each mode, and their ratio to `sync`."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as work, engine(Path(work)) as model:
        rows = Path(work) / "rows.jsonl"
        rows.write_text("".join(f'{{"prompt": "say {n}"}}\n' for n in range(32)))
        asyncio.run(once("sync", model, rows, steps=1))
        taken: dict[str, list[tuple[float, dict[str, Any]]]] = {mode: [] for mode in MODES}
        for _ in range(ROUNDS):
            for mode in MODES:
                taken[mode].append(asyncio.run(once(mode, model, rows, steps=STEPS)))
    best = {mode: min(rounds, key=lambda each: each[0]) for mode, rounds in taken.items()}
    print(
        f"rewards take {QUICK} s, each {EVERY}th one {SLOW} s; {STEPS} steps of 4 prompts with 4 "
        "answers each"
    )
    for mode, (seconds, metrics) in best.items():
        print(
            f"{mode:>18}: {60 * STEPS / seconds:6.1f} steps a minute, "
            f"{best['sync'][0] / seconds:.2f} times sync's; staleness at most "
            f"{metrics['async/max_staleness_observed']}"
        )
    return 0


async def once(mode: str, model: Path, rows: Path, *, steps: int) -> tuple[float, dict[str, Any]]:
    """Train STEPS steps in MODE, and return how long that took and the final metrics."""
    from dreadnode_api.training.defaults import complete
    from dreadnode_runtime.backend.tinker_policy import TinkerPolicy
    from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
    from dreadnode_runtime.backend.trainer import Adapter
    from dreadnode_runtime.control.events import Stop
    from dreadnode_runtime.data.load_rendering import load_rendering
    from dreadnode_runtime.data.prompts import Asking, prepare_prompts
    from dreadnode_runtime.jobs.config import read_config
    from dreadnode_runtime.jobs.outcome import Outcome
    from dreadnode_runtime.rl.config import RlConfig
    from dreadnode_runtime.rl.loop import RlPlan, train
    from dreadnode_runtime.rl.metric_history import RlHistory
    from dreadnode_runtime.rl.rollouts import Rollouts, sampling_params

    given = {
        "algorithm": "importance_sampling",
        "execution_mode": mode,
        "prompt_dataset_ref": {"name": "say", "version": "1"},
        "reward_recipe": {"name": "slow"},
        "max_new_tokens": 16,
        "max_sequence_length": 128,
        "num_rollouts": 4,
        "batch_size": 4,
        "group_size": 4,
        "steps": steps,
        **MODES[mode],
    }
    config = read_config(RlConfig, complete("rl", given))
    rendering = load_rendering(MODEL, rehearsal=True, tokenizer=str(model))
    reward = slow_reward()
    prompts, _ = prepare_prompts(
        rows, Asking(rendering, max_length=128, max_new_tokens=16, judge=reward.check)
    )
    silence: Any = Silence()
    async with tinker_trainer(
        base_model=MODEL,
        adapter=Adapter(rank=8),
        optimizer=config.optimizer(),
        resume=None,
        metadata={},
        kind=TinkerPolicy,
    ) as policy:
        rollouts = Rollouts(rendering, reward, sampling_params(rendering, config), max_length=128)
        history = RlHistory()
        began = time.perf_counter()
        plan = RlPlan(config, prompts, config.total_steps(len(prompts)))
        await train(plan, policy, rollouts, silence, Stop(), history, Outcome())
        return time.perf_counter() - began, history.final_metrics()


def slow_reward() -> Any:
    """Return a reward for lower-case letters that takes its time, the same for the same answer."""
    from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score

    class Slow(Recipe):
        name = "slow"

        async def score(self, completion: Completion) -> Score:
            is_slow = zlib.crc32(completion.text.encode()) % EVERY == 0
            await asyncio.sleep(SLOW if is_slow else QUICK)
            return Score(sum(c.islower() for c in completion.text) / max(len(completion.text), 1))

    return Slow()


if __name__ == "__main__":
    sys.exit(main())
