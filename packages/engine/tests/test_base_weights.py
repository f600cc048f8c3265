"""Runs and checkpoints stay on the base weights that they were made on."""

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.errors import Refused
from dreadnode_engine.service import recovery, results, sampling, sessions, training
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.settings import Settings
from dreadnode_engine.state.records import Request
from safetensors.torch import load_file, save_file

WHO = Principal(MASTER)
Start = Callable[..., Awaitable[Engine]]


def fine_tuned(model: Path, to: Path) -> Path:
    """Copy MODEL with other numbers, and with the same names, shapes and sizes."""
    shutil.copytree(model, to)
    tensors = load_file(to / "model.safetensors")
    torch.manual_seed(1)
    other = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file(other, to / "model.safetensors", {"format": "pt"})
    return to


def fingerprint_of(path: Path) -> str:
    return inspect_model("any", path).fingerprint


def test_a_fingerprint_depends_on_the_weights_and_not_on_their_folder(
    models_dir: Path, tmp_path: Path
) -> None:
    original = models_dir / "llama"
    moved = Path(shutil.copytree(original, tmp_path / "moved", copy_function=shutil.copyfile))
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}))
    scaled = shutil.copytree(original, tmp_path / "scaled")
    (scaled / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    tuned = fine_tuned(original, tmp_path / "tuned")

    prints = [fingerprint_of(path) for path in (original, moved, scaled, tuned)]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_the_fingerprint_of_sharded_weights_covers_every_file(
    models_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(models_dir / "llama", tmp_path / "sharded")
    tensors = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    save_file(dict(tensors[:9]), folder / "model-1.safetensors")
    save_file(dict(tensors[9:]), folder / "model-2.safetensors")
    before = fingerprint_of(folder)

    save_file({name: tensor + 1 for name, tensor in tensors[9:]}, folder / "model-2.safetensors")

    assert fingerprint_of(folder) != before


@pytest.fixture
async def start(models_dir: Path, tmp_path: Path) -> AsyncIterator[Start]:
    """Start an engine on one data directory, with the weights at a path as the model `m`.

    The one before it is stopped. The model `other` is always the same.
    """
    running: list[Engine] = []

    async def start(path: Path, meanwhile: Callable[[], None] = lambda: None) -> Engine:
        while running:
            running.pop().stop()
        meanwhile()
        found = {"m": inspect_model("m", path)}
        found["other"] = inspect_model("other", models_dir / "qwen3")
        engine = Engine(Settings(data_dir=tmp_path / "data", memory_gib=4), found)
        await recovery.start(engine)
        running.append(engine)
        return engine

    (tmp_path / "data").mkdir()
    yield start
    while running:
        running.pop().stop()


async def answer(engine: Engine, request: Request) -> Any:
    found = await results.retrieve(engine, WHO, request.id)
    assert found.result is not None
    return json.loads(found.result)


async def session(engine: Engine) -> str:
    return (
        await sessions.create_session(engine, WHO, b'{"tags": [], "sdk_version": "x"}', None)
    ).id


async def make_run(engine: Engine, base: str, session: str, number: int) -> str:
    fields = {"session_id": session, "model_seq_id": number, "base_model": base}
    body = json.dumps(fields | {"lora_config": {"rank": 2}}).encode()
    return str((await answer(engine, await training.create_model(engine, WHO, body)))["model_id"])


async def step(engine: Engine, run: str, seq: int) -> Any:
    body = {"model_id": run, "seq_id": seq, "adam_params": {"learning_rate": 1e-3}}
    request = await training.submit(engine, WHO, run, seq, "optim_step", json.dumps(body).encode())
    return await answer(engine, request)


async def save(engine: Engine, run: str, seq: int, kind: str) -> str:
    body = {"model_id": run, "seq_id": seq, "path": f"{kind}-{seq}"}
    request = await training.submit(engine, WHO, run, seq, kind, json.dumps(body).encode())
    return str((await answer(engine, request))["path"])


async def open_sampler(engine: Engine, session: str, number: int, **on: str) -> str:
    fields = {"session_id": session, "sampling_session_seq_id": number, **on}
    return (await sampling.create_sampler(engine, WHO, json.dumps(fields).encode())).id


async def sample(engine: Engine, sampler: str, seq: int) -> Request:
    body = {
        "sampling_session_id": sampler,
        "seq_id": seq,
        "num_samples": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]},
        "sampling_params": {"max_tokens": 3, "stop": [], "seed": 1},
    }
    request, _ = await sampling.sample(engine, WHO, json.dumps(body).encode())
    return await results.retrieve(engine, WHO, request.id)


async def test_records_made_on_other_weights_are_refused_and_the_others_continue(
    start: Start, models_dir: Path, tmp_path: Path
) -> None:
    first, second = models_dir / "llama", fine_tuned(models_dir / "llama", tmp_path / "tuned")
    engine = await start(first)
    own = await session(engine)
    run, beside = [await make_run(engine, base, own, n) for n, base in enumerate(("m", "other"))]
    state = await save(engine, run, 1, "save_weights")
    weights = await save(engine, run, 2, "save_weights_for_sampler")
    sampler = await open_sampler(engine, own, 0, model_path=weights)

    engine = await start(second)
    loading = {"session_id": own, "model_seq_id": 2, "path": state, "optimizer": False}
    refused = {
        run: lambda: step(engine, run, 3),
        sampler: lambda: sample(engine, sampler, 0),
        weights: lambda: open_sampler(engine, own, 1, model_path=weights),
        state: lambda: training.load_weights(engine, WHO, json.dumps(loading).encode()),
    }
    sentences = {}
    for name, call in refused.items():
        with pytest.raises(Refused) as refusal:
            await call()
        sentences[name] = str(refusal.value)
    fresh = await make_run(engine, "m", own, 3)
    went_on = [await step(engine, which, 1) for which in (fresh, beside)]

    for name, sentence in sentences.items():
        assert sentence.startswith(f"{name} was made on weights of m with the fingerprint ")
        assert fingerprint_of(first) in sentence
        assert fingerprint_of(second) in sentence
    assert all("metrics" in told for told in went_on)
    # On the weights that it was made on, the run goes on as if nothing had been.
    engine = await start(Path(shutil.copytree(first, tmp_path / "elsewhere")))
    assert "metrics" in await step(engine, run, 3)
    assert (await sample(engine, sampler, 0)).state == "done"


async def test_requests_accepted_before_the_weights_changed_fail_with_a_message(
    start: Start, models_dir: Path, tmp_path: Path
) -> None:
    engine = await start(models_dir / "llama")
    own = await session(engine)
    run = await make_run(engine, "m", own, 0)
    sampler = await open_sampler(engine, own, 0, base_model="m")
    engine.context.scheduler.stop()
    body = json.dumps({"model_id": run, "seq_id": 1, "path": "a"}).encode()
    promised = await training.submit(engine, WHO, run, 1, "save_weights", body)
    engine.settings.__dict__["hold_seconds"] = 0.0
    drawn = await sample(engine, sampler, 0)

    engine = await start(fine_tuned(models_dir / "llama", tmp_path / "tuned"))

    for request in (promised, drawn):
        assert "was made on weights of m" in (await answer(engine, request))["error"]


async def test_records_of_an_earlier_version_are_accepted_unchanged(
    start: Start, models_dir: Path, tmp_path: Path
) -> None:
    engine = await start(models_dir / "llama")
    own = await session(engine)
    run = await make_run(engine, "m", own, 0)

    def age() -> None:
        with closing(sqlite3.connect(tmp_path / "data" / "engine.sqlite3")) as db:
            for table in ("runs", "samplers", "checkpoints"):
                db.execute(f"ALTER TABLE {table} DROP COLUMN base_fingerprint")
            db.execute("ALTER TABLE requests DROP COLUMN lost")

    engine = await start(fine_tuned(models_dir / "llama", tmp_path / "tuned"), age)

    assert "metrics" in await step(engine, run, 1)
