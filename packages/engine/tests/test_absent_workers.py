"""The router while no worker serves: it reads their journals, each call without a process."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode_engine.http.endpoint import Endpoint
from dreadnode_engine.service.keys import Keyring
from dreadnode_engine.startup import lock_data_dir
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import worker_dir
from dreadnode_engine.state.journal import open_journal
from dreadnode_engine.state.records import Checkpoint, Run, Session
from dreadnode_engine.workers import forwarding
from dreadnode_engine.workers.app import create_router_app
from dreadnode_engine.workers.journals import Journals
from dreadnode_engine.workers.placements import read_journals
from dreadnode_engine.workers.router import Router
from dreadnode_engine.workers.supervisor import Worker

MASTER = "tml-master-key-of-the-tests"
OWNER = "somebody"
SHAPE: Any = {"train_mlp": True, "train_attn": True, "train_unembed": True}


def write_journal(shared_dir: Path, index: int) -> None:
    """Write the journal of worker INDEX: a run of the session `s` and its checkpoint."""
    worker_dir(shared_dir, index).mkdir(parents=True, exist_ok=True)
    run, now = f"s:train:{index}", time.time() + index
    common: Any = {"owner": OWNER, "base_model": "tiny/llama", "created": now, "rank": 4, **SHAPE}
    path = f"tinker://{run}/weights/saved"
    with closing(open_journal(worker_dir(shared_dir, index) / "engine.sqlite3")) as journal:
        queries.insert(journal, Session("s", OWNER, 1.0, 1.0, display_name="mine"))
        queries.insert(journal, Run(id=run, session="s", used=now, seed=0, **common))
        saved = {"path": path, "run": run, "kind": "training", "name": "saved", "bytes": 10}
        queries.insert(journal, Checkpoint(**saved, **common))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> httpx2.AsyncClient:
    """A client of OWNER at a router whose two workers do not serve."""
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", 0.01)
    for index in (0, 1):
        write_journal(tmp_path, index)
    keyring = Keyring(MASTER)
    workers = [Worker(0), Worker(1)]
    router = Router(workers, read_journals(tmp_path, 2), keyring, Journals(tmp_path))
    app = create_router_app(router, Endpoint(tmp_path, keyring), lambda: None)
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://router/api/v1",
        headers={"X-API-Key": keyring.run_key(OWNER, 2**33)},
    )


async def test_what_workers_have_is_listed_from_their_journals(client: httpx2.AsyncClient) -> None:
    async def get(path: str) -> Any:
        return (await client.get(path)).raise_for_status().json()

    runs = await get("/training_runs?limit=1")
    checkpoints = await get("/checkpoints?offset=1")
    found = await client.post("/checkpoints/search", json={"limit": 1})
    trace = await client.get((await get("/sessions/s/trace_export"))["url"])

    assert [run["training_run_id"] for run in runs["training_runs"]] == ["s:train:1"]
    assert runs["training_runs"][0]["last_checkpoint"]["checkpoint_id"] == "weights/saved"
    assert runs["cursor"] == {"limit": 1, "offset": 0, "total_count": 2}
    first = checkpoints["checkpoints"]
    assert [each["tinker_path"] for each in first] == ["tinker://s:train:0/weights/saved"]
    assert found.json()["checkpoints"][0]["tinker_path"] == "tinker://s:train:1/weights/saved"
    assert found.json()["next_cursor"] is not None
    assert (await get("/sessions"))["sessions"] == ["s"]
    shown = await get("/sessions/s")
    assert shown["training_run_ids"] == ["s:train:0", "s:train:1"]
    assert shown["display_name"] == "mine"
    assert (await get("/training_runs/s:train:0"))["lora_rank"] == 4
    of_run = (await get("/training_runs/s:train:1/checkpoints"))["checkpoints"]
    assert [each["checkpoint_id"] for each in of_run] == ["weights/saved"]
    used = (await get("/billing/usage/checkpoints/current"))["data"]
    assert used == [{"checkpoint_count": 2, "size_bytes": 20, "size_gigabytes": 20 / 1e9}]
    names = {e["args"]["name"] for e in trace.json()["traceEvents"] if e["name"] == "thread_name"}
    assert names == {"train:0 on tiny/llama", "train:1 on tiny/llama"}


async def test_another_key_sees_nothing_in_the_journals(client: httpx2.AsyncClient) -> None:
    client.headers["X-API-Key"] = Keyring(MASTER).run_key("a stranger", 2**33)

    runs = await client.get("/training_runs")
    shown = await client.get("/training_runs/s:train:0")
    trace = await client.get("/sessions/s/trace?expires=99999999999&signature=wrong")
    other = await client.get("http://router/v1/models", headers={"X-API-Key": "tml-wrong-key"})

    assert runs.json()["training_runs"] == []
    assert shown.status_code in (404, 503)
    assert trace.status_code == other.status_code == 401
    # The shape of errors that OpenAI's clients read.
    assert other.json()["error"]["type"] == "authentication_error"


async def test_what_changes_a_worker_waits_for_it(
    client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    refused = await client.delete("/training_runs/s:train:0/checkpoints/weights/saved")
    beat = await client.post("/session_heartbeat", json={"session_id": "s"})
    lock = await lock_data_dir(worker_dir(tmp_path, 1))
    starting = await client.get("/training_runs")
    lock.close()

    assert refused.status_code == starting.status_code == 503
    assert "Worker 0 of this engine restarts; try again later" in refused.json()["detail"]
    assert beat.json() == {"type": "session_heartbeat"}
