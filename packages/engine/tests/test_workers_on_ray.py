"""Workers on a Ray cluster of two machines, which are processes of this one with two addresses."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import tinker
from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import Settings
from dreadnode_engine.workers.serve import serve_workers
from dreadnode_engine.workers.shared_folder import LOCK_FILE, SharedFolder
from tinker import types

pytest.importorskip("ray", reason="the extra `dreadnode-training-engine[ray]` is missing")

from dreadnode_engine.workers.ray_cluster import needs_of_a_worker
from dreadnode_engine.workers.ray_launching import check_folder

pytestmark = pytest.mark.timeout(290)

KEY = "tml-master-key-of-the-tests"
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
STEPS = 8


class RayNode:
    """`ray start` with two cores at one address, until it is ended."""

    def __init__(self, ip: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        command += [f"--node-ip-address={ip}", "--num-cpus=2", "--num-gpus=0"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        printed = []
        for line in self.process.stdout or ():
            printed.append(line)
            if "Ray runtime started" in line:
                return
        raise AssertionError("".join(printed))

    def lose(self) -> None:
        """End the machine's Ray as a power cut would; what it has started ends by itself."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        next(process for process in family if process.name() == "raylet").kill()
        self.process.wait()

    def end(self) -> None:
        """End everything."""
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()
            self.process.wait()


class RayCluster:
    """Two machines."""

    def __init__(self) -> None:
        # Ray keeps sockets in its folder, and their paths must be short.
        self.folder = Path(f"/tmp/ray-workers-{os.getpid()}")
        # A lost machine is noticed after one second, not after fifteen.
        health = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 300,
            "health_check_failure_threshold": 3,
        }
        with socket.socket() as free:
            free.bind((HEAD, 0))
            port = free.getsockname()[1]
        self.address = f"{HEAD}:{port}"
        self.nodes = [
            RayNode(
                HEAD,
                *("--head", f"--port={port}", "--include-dashboard=false"),
                *(f"--temp-dir={self.folder}", f"--system-config={json.dumps(health)}"),
            )
        ]
        self.add(SECOND)

    def add(self, ip: str) -> None:
        """Add a machine."""
        self.nodes.append(RayNode(ip, f"--address={self.address}"))

    def end(self) -> None:
        """End all machines."""
        for node in reversed(self.nodes):
            node.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = RayCluster()
    yield started
    started.end()


def workers_of(engine: Any) -> dict[str, tuple[Path, psutil.Process]]:
    """The folders and processes of the workers, by their address in the cluster."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        if command[-2:-1] == ["worker"] and str(engine.data_dir) in command[-1]:
            settings = json.loads(command[-1])["settings"]
            found[settings["host"]] = Path(settings["data_dir"]), process
    return found


def train(
    run: tinker.TrainingClient, on_step: Callable[[int], None] = lambda _: None
) -> list[float]:
    losses = []
    for step in range(STEPS):
        tokens = [3 + (7 * step + i) % 80 for i in range(12)]
        datum = types.Datum(
            model_input=types.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:]},
        )
        done = run.forward_backward([datum], "cross_entropy")
        run.optim_step(types.AdamParams(learning_rate=3e-3))
        losses.append(done.result().metrics["loss:sum"])
        on_step(step)
    return losses


def settings(data_dir: Path, **changes: Any) -> Settings:
    return Settings(data_dir=data_dir, ray_address="127.0.0.2:1", **changes)


@pytest.mark.parametrize(
    ("changes", "machines", "sentence"),
    [
        ({"device": "cuda"}, [{"GPU": 1}, {"CPU": 8}], "room for 1 of 2 workers: each needs 1 GPU"),
        (
            {"threads": 3},
            [{"CPU": 5}, {"CPU": 2}],
            "room for 1 of 2 workers: each needs 3 CPU cores",
        ),
        (
            {"memory_gib": 2},
            [{"CPU": 4, "memory": 3 * 2**30}],
            "each needs 2 CPU cores and 2 GiB of",
        ),
    ],
)
def test_a_cluster_with_too_little_for_all_workers_is_refused_with_the_figures(
    tmp_path: Path, changes: dict[str, Any], machines: list[dict[str, float]], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        needs_of_a_worker(settings(tmp_path, workers=2, **changes), machines)


def test_workers_share_the_cores_of_the_machines(tmp_path: Path) -> None:
    machines = [{"CPU": 8.0}, {"CPU": 4.0, "GPU": 4.0}]

    on_cpus = needs_of_a_worker(settings(tmp_path, workers=3), machines)
    on_gpus = needs_of_a_worker(settings(tmp_path, workers=3, device="cuda"), machines)

    assert (on_cpus, on_gpus) == ({"CPU": 4}, {"GPU": 1})


async def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"

    with pytest.raises(Refused, match="`--ray-address` needs `--workers N`"):
        await serve_workers(settings(folder))
    with pytest.raises(Refused, match=r"No Ray cluster answers at 127\.0\.0\.2:1; start one"):
        await serve_workers(settings(folder, workers=2))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Refused, match=r"pip install 'dreadnode-training-engine\[ray\]'"):
        await serve_workers(settings(folder, workers=2))

    assert not folder.exists()


async def test_a_machine_without_the_shared_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK_FILE).touch()
    shared = await SharedFolder.lock(tmp_path)

    check_folder(tmp_path, "10.0.0.2")
    with pytest.raises(Refused, match=r"The machine 10\.0\.0\.2 cannot read the data directory"):
        check_folder(tmp_path / "missing", "10.0.0.2")
    with pytest.raises(Refused, match="does not see the router's lock on"):
        check_folder(tmp_path / "other", "10.0.0.2")
    shared.close()


def test_lost_workers_machines_and_routers_change_no_bit(
    cluster: RayCluster, start_engine: Callable[..., Any]
) -> None:
    engine = start_engine("--workers", "2", "--ray-address", cluster.address)
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    runs = [
        service.create_lora_training_client("tiny/llama", rank=4, seed=9).result() for _ in range(2)
    ]
    (first, _), (second, process) = (workers_of(engine)[host] for host in (HEAD, SECOND))
    port = process.net_connections("tcp")[0].laddr.port
    called = httpx2.get(f"http://{SECOND}:{port}/api/v1/worker/load", trust_env=False)
    saved = [run.save_state("start").result().path.split("/")[2] for run in runs]
    homes = [
        next(d for d in (first, second) if (d / "checkpoints" / run).is_dir()) for run in saved
    ]

    def lose(step: int) -> None:
        if step == 1:
            workers_of(engine)[SECOND][1].kill()
        elif step == 3:
            cluster.nodes[-1].lose()
        elif step == 5:
            engine.kill()
            engine.start()

    expected = train(runs[homes.index(first)])
    losses = train(runs[homes.index(second)], lose)
    moved = set(workers_of(engine))
    sampler = runs[0].save_weights_and_get_sampling_client().result()
    params = types.SamplingParams(max_tokens=8, seed=4, stop=[])
    sampled = sampler.sample(types.ModelInput.from_ints([5, 6, 7]), 1, params).result()

    assert called.status_code == 401
    assert losses == expected
    assert moved == {HEAD}
    assert len(sampled.sequences[0].tokens) == 8
    assert engine.stop() == 0
