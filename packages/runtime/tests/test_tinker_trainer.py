"""What only the real engine can answer, asked through the official SDK."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_runtime.backend.tinker_trainer import TinkerTrainer, tinker_trainer
from dreadnode_runtime.backend.trainer import Adapter, Optimizer
from dreadnode_runtime.errors import JobFailed
from safetensors.numpy import load_file


@pytest.fixture
def opened(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)

    @asynccontextmanager
    async def open_trainer(
        resume: str | None = None, rank: int = 4
    ) -> AsyncIterator[TinkerTrainer]:
        async with tinker_trainer(
            base_model="Qwen/Qwen3-8B",
            adapter=Adapter(rank=rank, seed=3),
            optimizer=Optimizer(),
            resume=resume,
            metadata={},
        ) as trainer:
            yield trainer

    return open_trainer


async def test_the_example_whose_loss_is_not_finite_is_found(opened: Any, example: Any) -> None:
    good, bad = example(1), example(2)
    bad = replace(bad, weights=np.where(bad.weights > 0, np.float32(np.inf), bad.weights))
    async with opened() as trainer:
        losses = await trainer.submit([[good, good], [good, bad, good]], 1e-3)

    assert [math.isnan(loss) for loss in losses] == [False, False, False, True, False]


async def test_a_loss_counts_each_trained_token_once_at_any_weight(
    opened: Any, example: Any
) -> None:
    light = example(1)
    heavy = replace(light, weights=light.weights * 7)
    async with opened() as trainer:
        losses = await trainer.evaluate([light, heavy])

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 4  # four tokens, of a model that knows nothing of 263


async def test_an_earlier_checkpoint_can_be_exported_as_an_adapter(
    opened: Any, example: Any, tmp_path: Path
) -> None:
    async with opened() as trainer:
        await trainer.submit([[example(1)]], 1e-2)
        early = (await trainer.save("step-000001")).path
        at_once = await trainer.export("then", tmp_path / "then")
        await trainer.submit([[example(1)]], 1e-2)
        last = await trainer.export("final", tmp_path / "final")
        best = await trainer.export("best", tmp_path / "best", early)

    assert best.state.path == early
    assert weights(best.adapter) == weights(at_once.adapter)
    assert weights(best.adapter) != weights(last.adapter)


async def test_a_job_whose_checkpoint_the_engine_lost_starts_over(
    opened: Any,
) -> None:
    async with opened(resume="tinker://gone:train:0/weights/step-000001") as trainer:
        assert trainer.resumed is False


async def test_a_checkpoint_that_the_engine_has_and_refuses_fails_the_job(
    opened: Any, tmp_path: Path
) -> None:
    async with opened() as trainer:
        sampler = (await trainer.export("final", tmp_path / "final")).sampler.path

    with pytest.raises(JobFailed, match="has no optimizer state"):
        async with opened(resume=sampler):
            pass


async def test_training_resumes_from_a_checkpoint(opened: Any, example: Any) -> None:
    async with opened() as trainer:
        await trainer.submit([[example(1)]], 1e-2)
        path = (await trainer.save("step-000001")).path
        expected = await trainer.submit([[example(2)]], 1e-2)
    async with opened(resume=path) as trainer:
        found = await trainer.submit([[example(2)]], 1e-2)

        assert trainer.resumed is True
    assert found == expected


async def test_a_rank_refused_by_the_engine_fails_the_job(opened: Any) -> None:
    with pytest.raises(JobFailed, match="The engine refused the work"):
        async with opened(rank=100_000):
            pass


def weights(folder: Path) -> dict[str, bytes]:
    tensors = load_file(folder / "adapter_model.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}
