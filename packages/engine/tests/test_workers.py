"""Several workers behind one address: what they share, and what a kill of any of them costs."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import tinker
from tinker import types

ENGINE_ARGUMENTS = ("--workers", "2", "--snapshot-seconds", "0.05")
KEY = "tml-master-key-of-the-tests"
ADAM = types.AdamParams(learning_rate=3e-3)
PROMPT = types.ModelInput.from_ints([5, 6, 7])
PARAMS = types.SamplingParams(max_tokens=8, seed=4, stop=[])
STEPS = 8


def batch(step: int) -> list[types.Datum]:
    rows = [[3 + (7 * step + 5 * row + i) % 80 for i in range(8 + 3 * row)] for row in range(3)]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:]},
        )
        for tokens in rows
    ]


@pytest.fixture(scope="module")
def service(engine: Any) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=engine.url, api_key=KEY)


@pytest.fixture(scope="module")
def rest(engine: Any) -> tinker.RestClient:
    return tinker.RestClient(base_url=engine.url, api_key=KEY)


def new_run(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()


def train(
    run: tinker.TrainingClient, on_step: Callable[[int], None] = lambda _: None
) -> list[float]:
    losses = []
    for step in range(STEPS):
        done = run.forward_backward(batch(step), "cross_entropy")
        run.optim_step(ADAM)
        losses.append(done.result().metrics["loss:sum"])
        on_step(step)
    return losses


@pytest.fixture(scope="module")
def expected(service: tinker.ServiceClient) -> list[float]:
    """The losses of a run that nobody disturbed."""
    return train(new_run(service))


def workers_of(engine: Any) -> dict[Path, psutil.Process]:
    """The processes of the workers, by their folder."""
    children = psutil.Process(engine.process.pid).children()
    return {
        Path(json.loads(child.cmdline()[-1])["settings"]["data_dir"]): child for child in children
    }


def saved_in(engine: Any, run: tinker.TrainingClient) -> Path:
    """Save RUN, and return the data directory of its worker."""
    path = run.save_state("found", overwrite=True).result().path
    name = path.removeprefix("tinker://").partition("/")[0]
    folders = (engine.data_dir, engine.data_dir / "workers" / "1")
    (found,) = [folder for folder in folders if (folder / "checkpoints" / name).is_dir()]
    return found


def health(engine: Any) -> list[dict[str, Any]]:
    answer = httpx2.get(f"{engine.url}/api/v1/healthz").json()
    assert answer["status"] == "ok"
    return list(answer["workers"])


def test_two_runs_at_once_are_on_different_workers_and_all_listings_have_both(
    engine: Any, service: tinker.ServiceClient, rest: tinker.RestClient
) -> None:
    runs = [new_run(service) for _ in range(2)]
    sampler = service.create_sampling_client(base_model="tiny/llama").result()

    ids = [run.get_info().model_id for run in runs]
    folders = {saved_in(engine, run) for run in runs}
    session = ids[0].partition(":")[0]
    shown = rest.get_session(session).result()
    listed = rest.list_training_runs(limit=1).result()
    both = rest.list_training_runs().result()
    saved = rest.list_user_checkpoints().result().checkpoints

    response = httpx2.get(
        f"{engine.url}/api/v1/sessions/{session}/trace_export", headers={"X-API-Key": KEY}
    )
    trace = httpx2.get(response.json()["url"]).json()

    assert len(folders) == 2
    tracks = {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert {f"{name.partition(':')[2]} on tiny/llama" for name in ids} <= tracks
    assert set(ids) <= set(shown.training_run_ids)
    assert len(shown.sampler_ids) == 1
    assert session in rest.list_sessions().result().sessions
    assert {run.training_run_id for run in both.training_runs} == set(shown.training_run_ids)
    assert [run.training_run_id for run in listed.training_runs] == [
        both.training_runs[0].training_run_id
    ]
    assert listed.cursor.total_count == both.cursor.total_count
    assert {each.tinker_path.split("/")[2] for each in saved} == set(ids)
    assert len(sampler.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens) == 8


def test_a_run_is_sampled_and_continued_on_the_other_worker(
    engine: Any, service: tinker.ServiceClient, expected: list[float]
) -> None:
    first = new_run(service)
    train(first)
    state, weights = first.save_state("end").result(), first.save_weights_for_sampler("end")
    here = service.create_sampling_client(model_path=weights.result().path).result()
    sampled = here.sample(PROMPT, 2, PARAMS).result()

    # Each new run counts, so one of the next is on the other worker.
    again = next(
        run
        for run in (
            service.create_training_client_from_state_with_optimizer(state.path).result()
            for _ in range(6)
        )
        if saved_in(engine, run) != saved_in(engine, first)
    )
    mine = first.save_weights_and_get_sampling_client().result()
    theirs = again.save_weights_and_get_sampling_client().result()

    for sampler in (mine, theirs):
        found = sampler.sample(PROMPT, 2, PARAMS).result().sequences
        assert [each.tokens for each in found] == [each.tokens for each in sampled.sequences]
    assert again.forward(batch(0), "cross_entropy").result().metrics["loss:sum"] == pytest.approx(
        first.forward(batch(0), "cross_entropy").result().metrics["loss:sum"], rel=1e-6
    )


def test_many_samples_of_one_sampler_spread_over_both_workers(
    engine: Any, service: tinker.ServiceClient
) -> None:
    run = new_run(service)
    run.forward_backward(batch(0), "cross_entropy")
    run.optim_step(ADAM).result()
    sampler = run.save_weights_and_get_sampling_client().result()
    params = types.SamplingParams(max_tokens=60, seed=4, stop=[])
    expected = sampler.sample(PROMPT, 1, params).result().sequences[0].tokens

    futures = [sampler.sample(PROMPT, 1, params) for _ in range(24)]
    tokens = [future.result().sequences[0].tokens for future in futures]

    assert tokens == [expected] * 24
    assert all(_samples(folder) > 0 for folder in workers_of(engine))


def _samples(folder: Path) -> int:
    """How many sampling requests of saved weights the journal of a worker has."""
    query = "SELECT count(*) FROM requests JOIN samplers ON queue = samplers.id WHERE weights <> ''"
    with sqlite3.connect(folder / "engine.sqlite3") as journal:
        return int(journal.execute(query).fetchone()[0])


def test_the_checkpoints_of_a_worker_that_was_killed_are_listed_and_load_on_the_other(
    engine: Any, service: tinker.ServiceClient, rest: tinker.RestClient
) -> None:
    run = new_run(service)
    path = run.save_weights_for_sampler("kept").result().path
    sampled = service.create_sampling_client(model_path=path).result().sample(PROMPT, 1, PARAMS)
    tokens = sampled.result().sequences[0].tokens

    workers_of(engine)[saved_in(engine, run)].kill()
    while all(worker["ready"] for worker in health(engine)):
        time.sleep(0.01)
    listed = rest.list_user_checkpoints().result().checkpoints
    found = rest.get_training_run(run.model_id).result()
    sampler = service.create_sampling_client(model_path=path).result()
    again = sampler.sample(PROMPT, 1, PARAMS).result().sequences[0].tokens

    assert path in {each.tinker_path for each in listed}
    assert found.training_run_id == run.model_id
    assert again == tokens


@pytest.mark.timeout(290)
@pytest.mark.parametrize("killed", ["a worker", "the router"])
def test_a_kill_under_a_running_client_changes_no_bit(
    engine: Any, service: tinker.ServiceClient, expected: list[float], killed: str
) -> None:
    run = new_run(service)
    folder = saved_in(engine, run)
    restarts: list[threading.Thread] = []

    def kill(step: int) -> None:
        if step == 3 and killed == "a worker":
            workers_of(engine)[folder].kill()
        elif step == 3:
            engine.kill()
            # The client submits while the address refuses connections.
            restarts.append(threading.Thread(target=engine.start))
            restarts[0].start()

    losses = train(run, kill)
    for restart in restarts:
        restart.join()

    assert losses == expected
    assert len(health(engine)) == 2


def test_a_data_directory_that_disappears_is_reported_until_it_is_back(engine: Any) -> None:
    away = engine.data_dir.with_name("away")
    url, headers = f"{engine.url}/api/v1/client/config", {"X-API-Key": KEY}
    asked = {"json": {"sdk_version": "0.38.0"}, "headers": headers, "timeout": 60}

    engine.data_dir.rename(away)
    while (gone := httpx2.post(url, **asked)).status_code == 200:
        time.sleep(0.1)
    away.rename(engine.data_dir)
    while (back := httpx2.post(url, **asked)).status_code != 200:
        time.sleep(0.1)

    assert gone.status_code == 503
    assert "has disappeared; mount it again" in gone.json()["detail"]
    assert back.status_code == 200
