"""Exporting a checkpoint: the real engine, the real SDK, and PEFT that loads what comes of it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dreadnode_runtime.backend.adapter import base_dtype
from dreadnode_runtime.backend.tinker_trainer import rest_client, tinker_trainer
from dreadnode_runtime.backend.trainer import Adapter, Optimizer
from dreadnode_runtime.commands.export import run
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

MODEL = "Qwen/Qwen3-8B"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def connected(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")


@pytest.fixture
async def trained(connected: None, example: Any, tmp_path: Path) -> tuple[str, Path]:
    """The checkpoint of a step, and what the trainer itself exports at that moment."""
    async with tinker_trainer(
        base_model=MODEL,
        adapter=Adapter(rank=4, seed=3),
        optimizer=Optimizer(),
        resume=None,
        metadata={},
    ) as trainer:
        await trainer.submit([[example(1)]], 1e-2)
        path = (await trainer.save("step-000001")).path
        there = await trainer.export("then", tmp_path / "then")
        await trainer.submit([[example(1)]], 1e-2)
        await trainer.save("step-000002")
    return path, there.adapter


async def export(checkpoint: str, folder: Path) -> Any:
    request = {"checkpoint": checkpoint, "name": "step-000001"}
    return json.loads(await run(json.dumps(request), folder))


async def test_peft_loads_an_earlier_checkpoint_as_the_adapter_of_that_step(
    trained: tuple[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    path, then = trained

    answer = await export(path, tmp_path / "out")

    assert answer == {"ok": True, "files": ["adapter_config.json", WEIGHTS, "README.md"]}
    assert base_dtype(tmp_path / "out") == "float32"
    found, expected = load_file(tmp_path / "out" / WEIGHTS), load_file(then / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    tokens = torch.arange(8)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = base(tokens).logits
    assert not torch.equal(PeftModel.from_pretrained(base, tmp_path / "out")(tokens).logits, plain)


async def test_an_adapter_without_the_last_layer_merges_where_embeddings_are_tied(
    example: Any, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = Adapter(rank=4, seed=3, train_unembed=False)
    async with tinker_trainer(
        base_model=MODEL, adapter=adapter, optimizer=Optimizer(), resume=None, metadata={}
    ) as trainer:
        await trainer.submit([[example(1)]], 1e-2)
        folder = (await trainer.export("final", tmp_path / "final")).adapter

    assert not any("lm_head" in name for name in load_file(folder / WEIGHTS))
    assert (
        "lm_head" not in json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    )
    tokens = torch.arange(8)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=True)
    base.tie_weights()
    adapted = PeftModel.from_pretrained(base, folder)
    expected = adapted(tokens).logits
    merged = adapted.merge_and_unload()
    assert torch.allclose(merged(tokens).logits, expected, atol=1e-5)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


async def test_an_export_leaves_nothing_on_the_engine(
    trained: tuple[str, Path], tmp_path: Path
) -> None:
    before = await checkpoints()

    await export(trained[0], tmp_path / "out")

    assert await checkpoints() == before


async def checkpoints() -> list[str]:
    found = await (await rest_client()).list_user_checkpoints(limit=1000)
    return sorted(each.tinker_path for each in found.checkpoints)


async def test_a_checkpoint_missing_on_the_engine_is_reported_as_a_refused_request(
    tmp_path: Path,
) -> None:
    gone = "tinker://gone:train:0/weights/step-000001"

    refused = await export(gone, tmp_path / "out")

    assert (refused["ok"], refused["fault"]) == (False, "request")
    assert refused["error"].startswith("The engine refused the work")
    assert not (tmp_path / "out").exists()


async def test_an_unreachable_engine_is_reported_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    gone = "tinker://run:train:0/weights/step-000001"

    async with asyncio.timeout(30):
        refused = await export(gone, tmp_path / "out")

    assert refused == {
        "ok": False,
        "fault": "engine",
        "error": "The engine does not respond; try again later",
    }


async def test_the_process_responds_once_and_reports_its_progress(
    trained: tuple[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()

    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "dreadnode_runtime", "export"],
        input=json.dumps({"checkpoint": trained[0], "name": "step-000001"}),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=folder,
    )

    assert json.loads(ended.stdout)["ok"] is True
    assert sorted(each.name for each in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        WEIGHTS,
    ]
