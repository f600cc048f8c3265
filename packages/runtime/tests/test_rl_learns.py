"""Proof that reinforcement learning learns: a real engine, the official SDK, a known optimum.

The reward is the share of an answer's characters that are lower-case letters: about 0.17 for a
random byte model, and 1 at best.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.policy import Loss, Sampled, SamplingParams, TrainingSequence
from dreadnode_runtime.backend.tinker_policy import TinkerPolicy
from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
from dreadnode_runtime.backend.trainer import Adapter, Optimizer
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.prompts import Prompt, PromptSettings, prepare_prompts
from dreadnode_runtime.jobs.config import read_config
from dreadnode_runtime.jobs.outcome import Outcome
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.loop import RlPlan, train
from dreadnode_runtime.rl.metric_history import RlHistory
from dreadnode_runtime.rl.rollouts import Rollouts, sampling_params


class LowerCase(Recipe):
    name = "lower_case"

    async def score(self, completion: Completion) -> Score:
        letters = sum(c.islower() and c.isascii() for c in completion.text)
        return Score(letters / max(len(completion.text), 1))


@pytest.fixture
def opened(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a policy on the real engine."""
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)

    def open_policy() -> Any:
        return tinker_trainer(
            base_model="Qwen/Qwen3-8B",
            adapter=Adapter(rank=8, seed=0),
            optimizer=Optimizer(),
            resume=None,
            metadata={},
            kind=TinkerPolicy,
        )

    return open_policy


class Quiet:
    def report(self, *_: Any, **__: Any) -> None: ...
    def phase(self, *_: Any) -> None: ...
    def log(self, *_: Any, **__: Any) -> None: ...


def config(**given: Any) -> RlConfig:
    settings = {
        "algorithm": "importance_sampling",
        "prompt_dataset_ref": {"name": "say", "version": "1"},
        "reward_recipe": {"name": "lower_case"},
        "max_new_tokens": 12,
        "max_sequence_length": 128,
        "steps": 16,
        "num_rollouts": 4,
        "batch_size": 4,
        "learning_rate": 2e-2,
    }
    return read_config(RlConfig, complete("rl", {**settings, **given}))


@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"algorithm": "ppo", "batch_size": 2},
        {"execution_mode": "one_step_off_async", "max_steps_off_policy": 1},
        {"execution_mode": "fully_async", "max_steps_off_policy": 2, "steps": 20},
        {
            "execution_mode": "fully_async",
            "max_steps_off_policy": 2,
            "algorithm": "ppo",
            "steps": 32,
        },
    ],
    ids=lambda mode: " ".join(str(value) for value in mode.values()) or "sync",
)
async def test_every_mode_raises_the_reward_within_its_staleness_limit(
    opened: Any, tiny_model: Path, tmp_path: Path, mode: dict[str, Any]
) -> None:
    settings, history = config(**mode), RlHistory()
    rendering = load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {n}"}}\n' for n in range(8)))
    reward = LowerCase()
    prompts: list[Prompt] = []
    settings_ = PromptSettings(rendering, max_length=128, max_new_tokens=12, check=reward.check)
    prepare_prompts(rows, settings_, prompts.append)

    async with opened() as policy:
        rollouts = Rollouts(rendering, reward, sampling_params(rendering, settings), max_length=128)
        plan = RlPlan(settings, prompts, settings.total_steps(len(prompts)))
        await train(plan, policy, rollouts, Quiet(), Stop(), history, Outcome())

    metrics = history.final_metrics()
    assert metrics["train/steps"] == plan.steps
    assert np.mean(metrics["train/reward"][:2]) < 0.3
    assert max(metrics["train/reward"][-6:]) > 0.45
    assert metrics["async/max_staleness_observed"] == settings.staleness_bound


def training_sequences(prompt: list[int], drawn: Sampled) -> TrainingSequence:
    tokens = np.array([*prompt, *drawn.tokens], np.int32)
    mask = np.arange(len(tokens)) >= len(prompt)
    logprobs = np.where(mask, np.concatenate([np.zeros(len(prompt)), drawn.logprobs]), 0)
    return TrainingSequence(
        tokens, logprobs.astype(np.float32), mask.astype(np.float32), sampled_mask=mask, row=1
    )


async def test_sampler_and_trainer_agree_on_the_probability_of_every_sampled_token(
    opened: Any,
) -> None:
    prompt = [260, 5, 6, 7, 8]
    async with opened() as policy:
        sampler = await policy.sampler()
        drawn = await sampler.sample(prompt, 4, SamplingParams(8, 1.0, [261]), seed=1)
        batch = [training_sequences(prompt, each) for each in drawn]
        found = await policy.submit_update(batch, Loss("importance_sampling"), 1e-3)

    for sequence, logprobs in zip(batch, found, strict=True):
        here = sequence.sampled_mask[1:]
        np.testing.assert_allclose(logprobs[here], sequence.logprobs[1:][here], atol=1e-4)


async def test_a_loss_refused_by_the_engine_as_not_finite_is_reported_for_every_token(
    opened: Any,
) -> None:
    prompt = [260, 5, 6, 7, 8]
    async with opened() as policy:
        sampler = await policy.sampler()
        drawn = await sampler.sample(prompt, 2, SamplingParams(8, 1.0, [261]), seed=1)
        batch = [training_sequences(prompt, each) for each in drawn]
        for each in batch:
            each.logprobs[each.sampled_mask] = -1e4  # So that the ratio overflows.

        found = await policy.submit_update(batch, Loss("importance_sampling"), 1e-3)

    assert [len(each) for each in found] == [len(each.tokens) - 1 for each in batch]
    assert all(np.isnan(each).all() for each in found)


async def test_the_same_seed_samples_the_same_completions(opened: Any) -> None:
    async with opened() as policy:
        sampler = await policy.sampler()
        first, again = [
            await sampler.sample([260, 5, 6], 3, SamplingParams(8, 1.0, [261]), seed=7)
            for _ in "12"
        ]

    assert [a.tokens.tolist() for a in first] == [a.tokens.tolist() for a in again]
    assert len({tuple(a.tokens.tolist()) for a in first}) == 3
