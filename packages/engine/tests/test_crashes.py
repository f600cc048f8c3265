"""A `kill -9` at any moment changes nothing but the time."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tinker
from tinker import types

KEY = "tml-master-key-of-the-tests"


def batch(step: int) -> list[types.Datum]:
    random_ = np.random.default_rng(step)
    data = []
    for _ in range(4):
        tokens = random_.integers(3, 90, random_.integers(4, 30))
        data.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
                loss_fn_inputs={"target_tokens": tokens[1:]},
            )
        )
    return data


def train(engine: Any, steps: int, on_step: Callable[[int], None] = lambda _: None) -> list[float]:
    """Train with accumulated gradients and checkpoints on the way; return every loss."""
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
    losses = []
    for step in range(steps):
        first = training.forward_backward(batch(2 * step), "cross_entropy")
        second = training.forward_backward(batch(2 * step + 1), "cross_entropy")
        training.optim_step(types.AdamParams(learning_rate=3e-3, weight_decay=0.01))
        if step % 7 == 3:
            training.save_state(f"step-{step}")
        losses += [f.result().metrics["loss:sum"] for f in (first, second)]
        on_step(step)
    return losses


STEPS = 14


@pytest.fixture(scope="module")
def expected(engine: Any) -> list[float]:
    """The losses of a run that nobody disturbed."""
    return train(engine, STEPS)


@pytest.mark.timeout(290)
@pytest.mark.parametrize("snapshot_seconds", ["0.05", "1000"])
def test_a_killed_engine_resumes_with_identical_bits(
    start_engine: Callable[..., Any], expected: list[float], snapshot_seconds: str
) -> None:
    engine = start_engine("--snapshot-seconds", snapshot_seconds)
    kills = {3, 9}
    chosen = random.Random(3)

    def kill_and_restart() -> None:
        time.sleep(chosen.uniform(0, 0.05))
        engine.kill()
        engine.start()

    restarts: list[threading.Thread] = []

    def on_step(step: int) -> None:
        if step in kills:
            # The client goes on submitting while the engine goes away under it.
            restarts.append(threading.Thread(target=kill_and_restart))
            restarts[-1].start()

    losses = train(engine, STEPS, on_step)
    for restart in restarts:
        restart.join()

    assert len(restarts) == len(kills)
    assert losses == expected


def test_futures_pending_before_a_kill_resolve_after_it(start_engine: Callable[..., Any]) -> None:
    engine = start_engine()
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    prompt = types.ModelInput.from_ints([5, 6, 7])
    params = types.SamplingParams(max_tokens=100, seed=4, stop=[])
    expected = sampler.sample(prompt, 2, params).result()

    futures = [sampler.sample(prompt, 2, params) for _ in range(4)]
    time.sleep(0.05)
    engine.kill()
    engine.start()

    for future in futures:
        sequences = future.result().sequences
        assert [s.tokens for s in sequences] == [s.tokens for s in expected.sequences]


def test_results_finished_before_a_restart_are_kept(
    start_engine: Callable[..., Any],
) -> None:
    engine = start_engine()
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
    training.forward_backward(batch(1), "cross_entropy").result()
    path = training.save_state("kept").result().path
    sampled = training.save_weights_for_sampler("kept").result().path
    assert engine.stop() == 0
    engine.start()
    rest = tinker.RestClient(base_url=engine.url, api_key=KEY)

    again = service.create_training_client_from_state(path).result()
    sampler = service.create_sampling_client(model_path=sampled).result()

    assert {c.tinker_path for c in rest.list_user_checkpoints().result().checkpoints} == {
        path,
        sampled,
    }
    assert again.get_info().lora_rank == 4
    assert (
        len(
            sampler.sample(
                types.ModelInput.from_ints([5]), 1, types.SamplingParams(max_tokens=3, stop=[])
            )
            .result()
            .sequences[0]
            .tokens
        )
        == 3
    )
    # Gradients that had been accumulated before the restart are still waiting.
    norm = training.optim_step(types.AdamParams(learning_rate=1e-3)).result().metrics
    assert norm is not None
    assert norm["grad_norm"] > 0


def _post(engine: Any, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(
        f"{engine.url}/api/v1/{path}", json=body, headers={"X-API-Key": KEY}, timeout=30
    )


def new_run(engine: Any, seed: int = 1) -> str:
    """Make a run by plain HTTP, and return its id."""
    session = _post(engine, "create_session", {"tags": [], "sdk_version": "0.38.0"}).json()
    body = {
        "session_id": session["session_id"],
        "model_seq_id": 0,
        "base_model": "tiny/llama",
        "lora_config": {"rank": 2, "seed": seed},
    }
    first, second = (_post(engine, "create_model", body).json() for _ in range(2))
    assert first == second
    result = _post(engine, "retrieve_future", {"request_id": first["request_id"]}).json()
    assert result["model_id"] == first["model_id"]
    return str(first["model_id"])


def test_a_retried_submit_is_accepted_once(engine: Any) -> None:
    run = new_run(engine)
    step = {"model_id": run, "seq_id": 1, "adam_params": {"learning_rate": 1e-3}}

    answers = [_post(engine, "optim_step", step).json() for _ in range(3)]
    other = _post(engine, "optim_step", step | {"adam_params": {"learning_rate": 1.0}})

    assert answers[0] == answers[1] == answers[2]
    assert other.status_code == 400
    assert "Sequence number 1" in other.json()["detail"]


def test_operations_that_arrive_out_of_order_run_in_order(engine: Any) -> None:
    run = new_run(engine)
    saves = {seq: {"model_id": run, "seq_id": seq, "path": f"s{seq}"} for seq in (1, 2, 3)}

    for seq in (3, 1, 2):
        _post(engine, "save_weights", saves[seq])
    results = [
        _post(engine, "retrieve_future", {"request_id": f"{run}:{seq}"}).json() for seq in (3, 2, 1)
    ]

    assert [r["path"].rsplit("/", 1)[1] for r in results] == ["s3", "s2", "s1"]
    listed = httpx2.get(
        f"{engine.url}/api/v1/training_runs/{run}/checkpoints", headers={"X-API-Key": KEY}
    ).json()["checkpoints"]
    assert [c["checkpoint_id"] for c in listed] == ["weights/s3", "weights/s2", "weights/s1"]


def test_an_operation_whose_predecessor_never_arrives_fails_with_a_message(
    start_engine: Callable[..., Any],
) -> None:
    engine = start_engine("--gap-seconds", "0.2", "--cleanup-seconds", "0.1")
    run = new_run(engine)
    _post(engine, "save_weights", {"model_id": run, "seq_id": 2, "path": "late"})

    answer = _post(engine, "retrieve_future", {"request_id": f"{run}:2"}).json()

    assert "for operation 1, which was never sent" in answer["error"]
    assert answer["category"] == "user"
    _post(engine, "save_weights", {"model_id": run, "seq_id": 1, "path": "first"})
    _post(engine, "save_weights", {"model_id": run, "seq_id": 3, "path": "third"})
    third = _post(engine, "retrieve_future", {"request_id": f"{run}:3"}).json()
    assert third["path"].endswith("/third")


def test_snapshots_delete_the_records_they_replace(start_engine: Callable[..., Any]) -> None:
    engine = start_engine("--snapshot-seconds", "0.01")
    train(engine, steps=6)

    db = sqlite3.connect(engine.data_dir / "engine.sqlite3")
    # What was made needless goes soon after, in the engine's own time.
    for _ in range(100):
        kept = db.execute("SELECT count(*) FROM requests WHERE body IS NOT NULL").fetchone()[0]
        snapshots = list(Path(engine.data_dir, "snapshots").glob("*/*.safetensors"))
        if kept <= 3 and len(snapshots) == 1:
            break
        time.sleep(0.1)

    assert kept <= 3
    assert len(snapshots) == 1


def test_an_inactive_client_loses_its_memory_and_nothing_else(
    engine: Any, start_engine: Callable[..., Any]
) -> None:
    strict = start_engine("--session-seconds", "0.3", "--cleanup-seconds", "0.1")
    losses = []
    for where, pause in ((engine, 0.0), (strict, 1.0)):
        service = tinker.ServiceClient(base_url=where.url, api_key=KEY)
        training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
        training.forward_backward(batch(0), "cross_entropy").result()
        time.sleep(pause)
        # By now the run has been put on disk; the next heartbeat lets it go on.
        training.optim_step(types.AdamParams(learning_rate=1e-2))
        losses.append(training.forward_backward(batch(1), "cross_entropy").result().metrics)

    assert list(Path(strict.data_dir, "snapshots").glob("*/*.safetensors"))
    assert losses[0]["loss:sum"] == losses[1]["loss:sum"]


def test_a_run_that_cannot_be_moved_to_disk_keeps_its_operations_and_is_replayed(
    engine: Any, start_engine: Callable[..., Any]
) -> None:
    strict = start_engine("--session-seconds", "0.3", "--cleanup-seconds", "0.1")
    Path(strict.data_dir, "snapshots").write_text("a file where the folder should be")
    losses = []
    for where, pause in ((engine, 0.0), (strict, 1.0)):
        service = tinker.ServiceClient(base_url=where.url, api_key=KEY)
        training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
        training.forward_backward(batch(0), "cross_entropy").result()
        time.sleep(pause)
        training.optim_step(types.AdamParams(learning_rate=1e-2))
        losses.append(training.forward_backward(batch(1), "cross_entropy").result(30).metrics)

    assert "the snapshot of" in Path(strict.data_dir.parent, "engine.log").read_text()
    assert losses[0]["loss:sum"] == losses[1]["loss:sum"]
    assert strict.stop() == 0


def test_an_unloaded_run_frees_its_memory_and_refuses_operations(
    start_engine: Callable[..., Any],
) -> None:
    engine = start_engine()
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    run = service.create_lora_training_client("tiny/llama", rank=4).result().model_id

    _post(engine, "unload_model", {"model_id": run})
    refused = _post(engine, "optim_step", {"model_id": run, "seq_id": 1})

    assert (refused.status_code, "is unloaded" in refused.text) == (400, True)
    deadline = time.monotonic() + 20
    while not (files := list(Path(engine.data_dir, "snapshots").glob("*/0.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(files) == 1


def test_records_that_ended_long_ago_are_deleted_and_their_checkpoints_stay(
    start_engine: Callable[..., Any],
) -> None:
    engine = start_engine("--retention-seconds", "0.2", "--cleanup-seconds", "0.1")
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
    path = training.save_state("stays").result().path
    training.save_weights_and_get_sampling_client().result()
    service.close("success").result()
    rest = tinker.RestClient(base_url=engine.url, api_key=KEY)
    db = sqlite3.connect(engine.data_dir / "engine.sqlite3")

    deadline = time.monotonic() + 20
    while rest.list_training_runs().result().training_runs and time.monotonic() < deadline:
        time.sleep(0.05)

    assert rest.list_sessions().result().sessions == []
    for table in ("sessions", "runs", "samplers", "requests"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    assert not list(Path(engine.data_dir, "samplers").glob("*"))
    assert rest.get_weights_info_by_tinker_path(path).result().lora_rank == 4
