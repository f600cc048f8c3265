"""The supervisor, the shared folder and the placement of work, each without processes."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from dreadnode_engine import startup
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.errors import Refused
from dreadnode_engine.service.keys import Keyring, Principal
from dreadnode_engine.settings import Settings
from dreadnode_engine.state.checkpoint_files import check_workers, worker_dir
from dreadnode_engine.workers import forwarding, supervisor
from dreadnode_engine.workers.capacity import memory_of_each
from dreadnode_engine.workers.forwarding import Forwarded, WorkerAway, send
from dreadnode_engine.workers.journals import Journals
from dreadnode_engine.workers.launching import EndedEarly
from dreadnode_engine.workers.placements import Placements
from dreadnode_engine.workers.router import Router
from dreadnode_engine.workers.serve import check_started
from dreadnode_engine.workers.shared_folder import SharedFolder
from dreadnode_engine.workers.supervisor import Worker
from dreadnode_engine.workers.worker_process import WorkerSpec, run_worker

MASTER = "tml-master-key-of-the-tests"


class DyingLauncher:
    """Starts workers that end before they serve."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem
        self.starts = 0

    async def launch(self, index: int) -> Any:
        self.starts += 1
        raise self.problem


async def _settle(worker: Worker, launcher: Any) -> None:
    running = asyncio.create_task(worker.keep_running(launcher))
    await worker.settled.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_worker_that_dies_at_every_start_is_named_and_its_calls_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MAX_DELAY", 0.01)
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", 0.01)
    worker, launcher = Worker(1), DyingLauncher(EndedEarly("exit code -9"))

    await _settle(worker, launcher)
    with pytest.raises(WorkerAway) as away:
        await send(worker, Forwarded("GET", b"/api/v1/training_runs", {}))
    with pytest.raises(Refused, match="Every worker ended soon after its start"):
        check_started([worker])

    assert launcher.starts == supervisor.FAILURES
    assert "Worker 1 has failed 3 times in a row at or soon after its start (exit code -9)" in str(
        away.value
    )
    assert away.value.status == 503


async def test_a_worker_that_refuses_its_settings_ends_the_start_in_its_own_words() -> None:
    worker = Worker(0)

    await _settle(worker, DyingLauncher(Refused("The model tiny cannot be served: no weights")))

    with pytest.raises(Refused, match="Worker 0 does not start: The model tiny cannot be served"):
        check_started([worker, Worker(1)])


async def test_one_folder_has_one_router_and_no_other_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "LOCK_SECONDS", 0.0)
    first = await SharedFolder.lock(tmp_path)

    with pytest.raises(Refused, match="Another engine uses"):
        await SharedFolder.lock(tmp_path)
    first.close()
    single = await startup.lock_data_dir(tmp_path)
    with pytest.raises(Refused, match="Another engine uses"):
        await SharedFolder.lock(tmp_path)
    single.close()
    (await SharedFolder.lock(tmp_path)).close()


def test_a_worker_makes_no_folder_in_place_of_one_that_has_disappeared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"
    spec = WorkerSpec(settings=Settings(data_dir=away / "workers" / "1"), shared_dir=away)

    assert run_worker(spec.model_dump_json()) == 1

    assert capsys.readouterr().out.startswith(f"refused: The data directory {away} of this engine")
    assert not away.exists()


def test_fewer_workers_than_have_runs_are_refused(tmp_path: Path) -> None:
    worker_dir(tmp_path, 2).mkdir(parents=True)
    check_workers(tmp_path, 1)

    (worker_dir(tmp_path, 2) / "engine.sqlite3").touch()

    with pytest.raises(Refused, match="has the runs of 3 workers; start the engine with"):
        check_workers(tmp_path, 1)


def test_copies_of_the_weights_that_do_not_fit_are_refused_with_the_figures(
    tmp_path: Path, models_dir: Path
) -> None:
    model = inspect_model("tiny/llama", models_dir / "llama")
    named = ("tiny/llama=somewhere",)
    fits = Settings(data_dir=tmp_path, model=named, workers=4, memory_gib=4)
    small = Settings(data_dir=tmp_path, model=named, workers=4, memory_gib=1e-4)

    assert memory_of_each(fits, {model.id: model}) == 1.0
    with pytest.raises(Refused, match="each of 4 workers may use 0 MiB of 0 MiB; start fewer"):
        memory_of_each(small, {model.id: model})


async def test_new_work_goes_where_least_waits_and_its_model_is_loaded(tmp_path: Path) -> None:
    workers = [Worker(0), Worker(1)]
    for worker in workers:
        worker.ready.set()
    router = Router(workers, Placements(), Keyring(MASTER), Journals(tmp_path))
    workers[1].models = {"tiny/llama"}

    async def chosen() -> int:
        return (await router.any_worker("tiny/llama")).index

    assert await chosen() == 1
    workers[1].add_placed("run")
    assert await chosen() == 0
    workers[0].samples = 64
    assert await chosen() == 1
    workers[0].samples, workers[0].computing = 0, 8
    assert await chosen() == 1
    workers[1].ready.clear()
    assert await chosen() == 0


async def test_a_session_that_is_created_again_is_the_same_on_any_worker(
    tmp_path: Path,
) -> None:
    body = b'{"tags": [], "sdk_version": "0.38.0"}'
    created = []
    for worker in (0, 1):
        router = Router([Worker(0), Worker(1)], Placements(), Keyring(MASTER), Journals(tmp_path))
        router.workers[worker].ready.set()
        router.call = _accept  # type: ignore[method-assign]
        for who, key in (("", "one"), ("job", "one"), ("", "two")):
            session = await router.create_session(Principal(who), body, key)
            created.append(session.id)

    assert created[:3] == created[3:]
    assert len(set(created)) == 3


async def _accept(*_: Any) -> None:
    return None
