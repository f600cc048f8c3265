"""Following runs elsewhere: with the real libraries, writing to files, and with broken ones."""

import asyncio
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.control.trackers import Run, create_sqlite_tables
from dreadnode_runtime.control.tracking import metrics_of, open_trackers
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig, check_trackers, read_config


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a library take its time to load, though the run is over in no time."""
    monkeypatch.setattr("dreadnode_runtime.control.tracking.CLOSE_SECONDS", 90.0)


class Told:
    """A reporter that keeps what it is told, as far as trackers know it."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []
        self.warnings: list[str] = []

    def report(
        self, kind: str, data: dict[str, Any], metrics: dict[str, Any] | None = None
    ) -> None:
        for listener in self.listeners:
            listener({"event_type": kind, "data": data, "metrics": metrics or {}})

    def log(self, message: str, *, level: str = "info") -> None:
        assert level == "warning"
        self.warnings.append(message)


def job(*track: str) -> Job:
    return Job(
        id="job-1",
        name="talk",
        trainer_type="sft",
        model="Qwen/Qwen3-8B",
        trained_model="stand-in/tiny",
        rehearsal=True,
        config={"lora_rank": 4, "track": list(track), "track_project": "support"},
        metrics={},
        artifacts={},
    )


async def train(told: Any, *track: str, start: int = 0, steps: int = 3, **how: Any) -> None:
    """Tell what a short training tells, with an evaluation at its end."""
    async with asyncio.timeout(100), open_trackers(job(*track), told, Stop(), **how):
        told.report("phase", {"phase": "starting"})
        told.report("training_start", {"start": start})
        for step in range(start + 1, start + steps + 1):
            metrics = {"steps": [step], "train/loss": [1 / step], "train/num_tokens": [10]}
            told.report("step_complete", {"step": step}, metrics)
        told.report("eval_complete", {"step": start + steps}, {"eval/loss": 0.5})


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return [(point.step, round(point.value, 4)) for point in read.Scalars(name)]


async def test_tensorboard_gets_the_curves_and_a_resumed_attempt_adds_no_duplicates(
    patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREADNODE_TENSORBOARD_DIR", str(tmp_path))
    told = Told()

    await train(told, "tensorboard")
    await train(told, "tensorboard")
    await train(told, "tensorboard", start=2, steps=2)

    folder = tmp_path / "support" / "job-1"
    assert curve(folder, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert curve(folder, "eval/loss")[-1] == (4, 0.5)
    assert told.warnings == []


async def test_mlflow_has_one_run_for_all_attempts_with_settings_and_curves(
    patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    # A folder takes no migrations, of which a new database has forty.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    told = Told()

    await train(told, "mlflow")
    await train(told, "mlflow", start=3, steps=1)

    client = MlflowClient()
    experiment = client.get_experiment_by_name("support")
    (run,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, round(point.value, 4)) for point in losses] == [
        (1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25),
    ]  # fmt: skip
    assert (run.info.status, run.info.run_name) == ("FINISHED", "REHEARSAL: talk")
    assert run.data.params["lora_rank"] == "4"
    assert run.data.params["trained_model"] == "stand-in/tiny"
    assert told.warnings == []


async def test_weights_and_biases_writes_a_run_without_a_network(
    patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    told = Told()

    await train(told, "wandb")

    (written,) = await asyncio.to_thread(
        lambda: list(tmp_path.glob("wandb/offline-run-*/run-job-1.wandb"))
    )
    assert steps_of(written) == [1, 2, 3]
    assert told.warnings == []


async def test_weights_and_biases_without_a_network_continues_the_steps_after_a_restart(
    patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    await train(Told(), "wandb", start=3, steps=2)

    (written,) = await asyncio.to_thread(
        lambda: list(tmp_path.glob("wandb/offline-run-*/run-job-1.wandb"))
    )
    assert steps_of(written) == [4, 5]


def steps_of(written: Path) -> list[int]:
    """Return W&B's own step of each record with a loss, out of a file in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, steps, payload = written.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        payload += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            record = Record.FromString(payload)
            names = ["/".join(item.nested_key) or item.key for item in record.history.item]
            steps += [record.history.step.num] if "train/loss" in names else []
            payload = b""
    return steps


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_a_new_mlflow_database_is_complete_or_absent(
    patient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def client(uri: str) -> Any:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half of the tables")
        raise Killed

    path = tmp_path / "mlflow.db"
    with pytest.raises(Killed):
        create_sqlite_tables(f"sqlite:///{path}", client)
    assert names_in(tmp_path) == []

    left = tmp_path / ".mlflow.db.99-journal"
    left.touch()
    os.utime(left, (0, 0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    told = Told()
    await train(told, "mlflow")
    await train(told, "mlflow", start=3, steps=1)

    assert told.warnings == []
    assert names_in(tmp_path) == ["mlflow.db"]


class Broken:
    """A tracker that does what the test says at its first metrics."""

    def __init__(self, fail: Any) -> None:
        self._fail = fail

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._fail()

    def close(self, end: str) -> None: ...


async def test_a_failing_tracker_is_warned_about_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-the-tracker")

    def fail() -> None:
        raise ConnectionError("401 for the key secret-of-the-tracker")

    told = Told()

    await train(told, "wandb", open_=lambda name, run: Broken(fail))

    (warning,) = told.warnings
    assert warning == (
        "Weights & Biases no longer receives this run: 401 for the key ***; "
        "all metrics are in the job's own record"
    )


async def test_a_tracker_that_cannot_start_is_warned_about_once(tmp_path: Path) -> None:
    def refuse(name: str, run: Run) -> Any:
        raise OSError(f"no such server for {run.project}")

    told = Told()

    await train(told, "mlflow", open_=refuse)

    assert told.warnings[0].startswith("MLflow no longer receives this run: no such server")
    assert len(told.warnings) == 1


async def test_a_hanging_tracker_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dreadnode_runtime.control.tracking.CLOSE_SECONDS", 0.2)
    forever = threading.Event()
    told = Told()

    await train(told, "tensorboard", open_=lambda name, run: Broken(forever.wait))

    (warning,) = told.warnings
    assert "it did not take the last metrics within 0 s" in warning
    forever.set()


async def end_with(raised: BaseException, open_: Any) -> None:
    told: Any = Told()
    async with open_trackers(job("wandb"), told, Stop(), open_):
        told.report("training_start", {"start": 0})
        raise raised


async def test_a_tracker_gets_the_runs_final_status() -> None:
    ends: list[str] = []

    class Listener(Broken):
        def close(self, end: str) -> None:
            ends.append(end)

    def open_(name: str, run: Run) -> Any:
        return Listener(lambda: None)

    await train(Told(), "wandb", open_=open_)
    for raised in (JobFailed("It diverged", code="diverged"), asyncio.CancelledError()):
        with pytest.raises(type(raised)):
            await end_with(raised, open_)

    assert ends == ["completed", "failed", "interrupted"]


def test_only_finite_numbers_are_sent_to_a_tracker_and_step_axes_are_not() -> None:
    told = {
        "steps": [3], "train/loss": [0.5], "eval/loss": float("nan"), "train/kl": [None], "x": "y",
    }  # fmt: skip

    assert metrics_of(told) == {"train/loss": 0.5}


def test_a_missing_tracker_library_is_reported_before_the_job_is_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    given = {"dataset_ref": {"name": "a", "version": "1"}, "track": ["tensorboard", "wandb"]}
    config = read_config(SftConfig, complete("sft", {"max_sequence_length": 2048, **given}))

    with pytest.raises(JobFailed, match="install the package `wandb` where jobs run"):
        check_trackers(config)
