"""A request that kills the engine is given up, and a stop does not wait for a disk that is full."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_engine.base_models.discovery import ServedModel, inspect_model
from dreadnode_engine.service import recovery
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.settings import Settings
from dreadnode_engine.state import queries
from dreadnode_engine.state.crash_guard import MAX_INTERRUPTIONS, CrashGuard
from dreadnode_engine.state.journal import Journal
from dreadnode_engine.state.records import Request, Session, new_request, new_run, new_sampler
from tinker.proto import tinker_public_pb2 as pb

RUN = "s:train:0"
SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
import torch
import transformers.models.llama.modeling_llama
from dreadnode_engine.settings import Settings
from dreadnode_engine.service import recovery
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.base_models.discovery import inspect_model

async def serve(data_dir, model):
    settings = Settings(data_dir=Path(data_dir), memory_gib=4, micro_batch_tokens=256)
    engine = Engine(settings, {"m": inspect_model("m", Path(model))})
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await recovery.start(engine)
    print(os.getpid(), flush=True)
    await asked.wait()
    await asyncio.to_thread(engine.stop)

torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        asyncio.run(serve(*line.split()))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Starts an engine process for each line, without the seconds that importing it takes."""


class Starter:
    """Real engine processes, one after the other."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.pid = 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, data_dir: Path) -> None:
        assert self.server.stdin is not None
        self.server.stdin.write(f"{data_dir} {self.model}\n")
        self.server.stdin.flush()
        self.pid = self._line()

    def end(self, by: signal.Signals) -> int:
        """End the engine, and return its exit code."""
        os.kill(self.pid, by)
        return self._line()

    def start_and_end_under(self, data_dir: Path, request: str, by: signal.Signals) -> int:
        """Start an engine and end it while it computes REQUEST."""
        self.start(data_dir)
        until(lambda: computing(data_dir) == [request])
        return self.end(by)

    def run(self, data_dir: Path) -> dict[int, dict[str, Any]]:
        """Start an engine, let it do all there is to do, stop it, and return all requests."""
        self.start(data_dir)
        until(lambda: all(row["state"] != "queued" for row in requests(data_dir).values()))
        assert self.end(signal.SIGTERM) == 0
        return requests(data_dir)

    def wait_until_logged(self, words: str) -> None:
        """Read the engine's log until WORDS are in it."""
        assert self.server.stderr is not None
        while words not in (line := self.server.stderr.readline()):
            assert line, "the engine ended"

    def _line(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def starter(models_dir: Path) -> Iterator[Starter]:
    starter = Starter(models_dir / "llama")
    yield starter
    starter.server.kill()
    starter.server.communicate()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)


def computing(data_dir: Path) -> list[str]:
    """Return what the engine says that it computes at this moment."""
    file = data_dir / "computing"
    line = file.read_text().split("\n")[0] if file.exists() else ""
    return list(json.loads(line)) if line else []


def requests(data_dir: Path) -> dict[int, dict[str, Any]]:
    with closing(sqlite3.connect(data_dir / "engine.sqlite3")) as db:
        db.row_factory = sqlite3.Row
        return {row["seq"]: dict(row) for row in db.execute("SELECT * FROM requests")}


def forward_backward(seq: int, data: int) -> Request:
    """Return a request with so many DATA of a hundred tokens."""
    message = pb.ForwardBackwardRequest(model_id=RUN, seq_id=seq, loss_fn="cross_entropy")
    random = np.random.default_rng(seq)
    for _ in range(data):
        tokens = random.integers(3, 90, 101)
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = tokens[:-1].astype("<i4").tobytes()
        targets = pb.Tensor(dense=tokens[1:].tobytes(), dtype=pb.DTYPE_INT64, shape=[100])
        datum.loss_fn_inputs["target_tokens"].CopyFrom(targets)
    body = message.SerializeToString(deterministic=True)
    return new_request(RUN, seq, "forward_backward", "", body)


def accepted(data_dir: Path, model: ServedModel, slow: Request) -> Path:
    """Make a data directory in which a run waits for its making, for SLOW, and for two more."""
    data_dir.mkdir()
    session = Session("s", "", time.time(), time.time())
    shape = {"rank": 4, "seed": 9, "train_mlp": True, "train_attn": True, "train_unembed": True}
    step = {"model_id": RUN, "seq_id": 2, "adam_params": {"learning_rate": 1e-2}}
    open_requests = [
        new_request(RUN, 0, "create_model", "", b"{}"),
        slow,
        new_request(RUN, 2, "optim_step", "", json.dumps(step).encode()),
        forward_backward(3, data=2),
    ]

    def write(db: sqlite3.Connection) -> None:
        for record in (session, new_run(session, 0, model, None, **shape), *open_requests):
            queries.insert(db, record)

    journal = Journal(data_dir / "engine.sqlite3")
    journal.do_now(write)
    journal.close()
    return data_dir


@pytest.fixture(scope="module")
def model(models_dir: Path) -> ServedModel:
    return inspect_model("m", models_dir / "llama")


@pytest.fixture(scope="module")
def slow() -> Request:
    return forward_backward(1, data=100)


@pytest.fixture(scope="module")
def undisturbed(
    starter: Starter, model: ServedModel, slow: Request, tmp_path_factory: pytest.TempPathFactory
) -> list[bytes]:
    """The answers of an engine that nobody disturbed."""
    data_dir = accepted(tmp_path_factory.mktemp("undisturbed") / "data", model, slow)
    return [row["result"] for row in starter.run(data_dir).values()]


def test_a_request_survives_four_kills_and_a_stop_and_fails_at_the_fifth_kill(
    starter: Starter,
    model: ServedModel,
    slow: Request,
    undisturbed: list[bytes],
    tmp_path: Path,
) -> None:
    data_dir = accepted(tmp_path / "data", model, slow)
    refusal = new_request(RUN, 1, "refused", "", b'{"detail": "no"}')
    without = accepted(tmp_path / "without", model, refusal)

    for _ in range(MAX_INTERRUPTIONS - 1):
        starter.start_and_end_under(data_dir, slow.id, signal.SIGKILL)
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    stopped = starter.start_and_end_under(copy, slow.id, signal.SIGTERM)
    after_four = starter.run(copy)
    starter.start_and_end_under(data_dir, slow.id, signal.SIGKILL)
    after_five = starter.run(data_dir)

    assert stopped == 0
    assert after_four[1]["lost"] == MAX_INTERRUPTIONS - 1
    assert [row["result"] for row in after_four.values()] == undisturbed
    assert [row["state"] for row in after_five.values()] == ["done", "failed", "done", "done"]
    answer = json.loads(after_five[1]["result"])
    assert "ended unexpectedly 5 times in a row while it computed this request" in answer["error"]
    assert "fewer or shorter sequences" in answer["error"]
    assert answer["category"] == "user"
    # What comes later finds the run as it was without the request.
    plain = starter.run(without)
    assert [plain[seq]["result"] for seq in (2, 3)] == [after_five[s]["result"] for s in (2, 3)]


def test_a_full_disk_does_not_prevent_a_clean_stop_and_loses_nothing(
    starter: Starter, model: ServedModel, slow: Request, undisturbed: list[bytes], tmp_path: Path
) -> None:
    data_dir = accepted(tmp_path / "data", model, slow)
    starter.start(data_dir)
    until(lambda: computing(data_dir) == [slow.id])
    resource.prlimit(starter.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    starter.wait_until_logged("the journal cannot be written")

    code = starter.end(signal.SIGTERM)
    stopped = requests(data_dir)
    ended = starter.run(data_dir)

    assert code == 0
    assert [row["state"] for row in stopped.values()] == ["done", "queued", "queued", "queued"]
    assert ended[1]["lost"] == 0
    assert [row["result"] for row in ended.values()] == undisturbed


async def test_a_sample_that_kills_the_engine_fails_and_the_others_complete(
    model: ServedModel, tmp_path: Path
) -> None:
    session = Session("s", "", time.time(), time.time())
    sampler = new_sampler(session, 0, model, None, None)
    body = {
        "sampling_session_id": sampler.id,
        "num_samples": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]},
        "sampling_params": {"max_tokens": 4, "stop": [], "seed": 1},
    }
    asked = [
        new_request(sampler.id, seq, "sample", "", json.dumps(body | {"seq_id": seq}).encode())
        for seq in range(3)
    ]
    asked[1].lost, asked[2].lost = MAX_INTERRUPTIONS - 1, MAX_INTERRUPTIONS - 2
    engine = Engine(Settings(data_dir=tmp_path, memory_gib=4), {"m": model})

    def write(db: sqlite3.Connection) -> None:
        for record in (session, sampler, *asked):
            queries.insert(db, record)

    await engine.context.journal.do(write)
    engine.context.crash_guard.mark_computing([asked[1].id, asked[2].id])
    await recovery.start(engine)
    try:
        until(lambda: all(row["state"] != "queued" for row in requests(tmp_path).values()))
    finally:
        engine.stop()

    states = {seq: (row["state"], row["lost"]) for seq, row in requests(tmp_path).items()}
    assert states == {0: ("done", 0), 1: ("failed", 5), 2: ("done", 4)}


def test_records_of_running_work_are_read_once_and_invalid_ones_are_ignored(tmp_path: Path) -> None:
    note = CrashGuard(tmp_path / "computing")
    note.mark_computing({"a:2", "a:10"})
    note.mark_computing(["b"])

    found = [note.take_interrupted(), note.take_interrupted()]
    note.mark_computing(["c"])
    note.stop()
    note.mark_computing(["d"])

    assert found == [["b"], []]
    assert note.take_interrupted() == []
    for nonsense in ("{half", "17\n", "\xff\n"):
        (tmp_path / "computing").write_text(nonsense, encoding="latin-1")
        assert note.take_interrupted() == []
    note.close()
