"""tinker-cookbook's own training mains, unmodified, run to the end against the engine."""

import json
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
from tinker import types

KEY = "tml-master-key-of-the-tests"


@pytest.fixture(autouse=True)
def _surroundings(
    engine: Any, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name the engine, and put the model where its name finds a tokenizer without a hub."""
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    (tmp_path / "tiny").symlink_to(models_dir)
    monkeypatch.chdir(tmp_path)


def metrics(log: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


async def test_the_cookbooks_supervised_main_trains_to_the_end(tmp_path: Path) -> None:
    from tinker_cookbook.supervised import train
    from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

    class Rows(SupervisedDataset):  # type: ignore[misc]
        def get_batch(self, index: int) -> list[types.Datum]:
            rows = [np.random.default_rng(seed).integers(3, 90, 12) for seed in range(4)]
            return [
                types.Datum(
                    model_input=types.ModelInput.from_ints(row[:-1].tolist()),
                    loss_fn_inputs={"target_tokens": row[1:], "weights": np.ones(11, np.float32)},
                )
                for row in rows
            ]

        def __len__(self) -> int:
            return 8

    @chz.chz
    class Builder(SupervisedDatasetBuilder):  # type: ignore[misc]
        def __call__(self) -> tuple[SupervisedDataset, None]:
            return Rows(), None

    await train.main(
        train.Config(
            log_path=str(tmp_path / "log"),
            model_name="tiny/llama",
            recipe_name="test",
            dataset_builder=Builder(),
            learning_rate=1e-2,
            lora_rank=4,
            save_every=4,
            eval_every=0,
            infrequent_eval_every=0,
        )
    )

    losses = metrics(tmp_path / "log", "train_mean_nll")
    assert len(losses) == 8
    assert losses[-1] < losses[0] / 2
    assert "sampler_weights/final" in (tmp_path / "log" / "checkpoints.jsonl").read_text()


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo"])
async def test_the_cookbooks_rl_main_raises_the_reward(tmp_path: Path, loss_fn: str) -> None:
    from tinker_cookbook.rl import train
    from tinker_cookbook.rl.types import (
        Env,
        EnvGroupBuilder,
        RLDataset,
        RLDatasetBuilder,
        StepResult,
    )

    class SmallTokens(Env):  # type: ignore[misc]
        """Rewards the share of sampled tokens whose id is below 50."""

        async def initial_observation(self) -> Any:
            return types.ModelInput.from_ints([5, 6, 7]), [2]

        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            return StepResult(
                reward=sum(token < 50 for token in action) / max(1, len(action)),
                episode_done=True,
                next_observation=types.ModelInput.empty(),
                next_stop_condition=[2],
            )

    class Group(EnvGroupBuilder):  # type: ignore[misc]
        async def make_envs(self) -> list[Any]:
            return [SmallTokens() for _ in range(8)]

    class Groups(RLDataset):  # type: ignore[misc]
        def get_batch(self, index: int) -> list[Any]:
            return [Group() for _ in range(4)]

        def __len__(self) -> int:
            return 12

    @chz.chz
    class Builder(RLDatasetBuilder):  # type: ignore[misc]
        async def __call__(self) -> tuple[Any, None]:
            return Groups(), None

    await train.main(
        train.Config(
            learning_rate=1e-2,
            dataset_builder=Builder(),
            model_name="tiny/llama",
            recipe_name="test",
            max_tokens=8,
            log_path=str(tmp_path / "log"),
            eval_every=0,
            save_every=6,
            lora_rank=8,
            loss_fn=loss_fn,
        )
    )

    rewards = metrics(tmp_path / "log", "env/all/reward/total")
    assert len(rewards) == 12
    assert np.mean(rewards[-4:]) > rewards[0] + 0.2
