"""How long the creation of a job takes, beside another build of this project.

Each build runs as a real server with the real runtime on SQLite, with an engine that only lists a
stand-in. From the request to the response, in seconds:

* one job on new data of one row, and a second job on the same data
* 20 and 100 jobs of one row at once, on the same data and on data of their own, until the last one
* one job on each number of rows, and a second one on the same data; for a job that is answered in
  the phase `validating`, also until its check has passed

A 429 is repeated after its `Retry-After`, as the client does. The builds take turns on each case.
Aims: a second job on the same data at least 10 times faster, 20 at once at least 4 times faster.

`BENCH_SUBMIT_BASELINE` names a checkout of the other build, `BENCH_SUBMIT_ROWS` the numbers of
rows (1000,30000,1000000 if unset), and `BENCH_SUBMIT_JOBS` the numbers of jobs at once (20,100 if
unset).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent
_ROWS = os.environ.get("BENCH_SUBMIT_ROWS", "1000,30000,1000000")
ROWS = [int(each) for each in _ROWS.split(",") if each]
JOBS = [int(each) for each in os.environ.get("BENCH_SUBMIT_JOBS", "20,100").split(",") if each]
ROUNDS = 3
PATH = "/api/v1/org/main/ws/default/training/jobs"
PACKAGES = ("api", "sdk", "runtime")

ENGINE = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        model = {"model_name": "stand-in/tiny", "max_context_length": 4096, "trainable": True,
                 "sampleable": True, "stand_in": True, "tokenizer_id": sys.argv[1]}
        body = json.dumps({"supported_models": [model]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): ...
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("engine ready on", server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Took:
    """Seconds until the response, and until the data was checked if that came later."""

    answered: float
    checked: float | None = None

    def __str__(self) -> str:
        late = "" if self.checked is None else f" (checked after {self.checked:.1f})"
        return f"{self.answered:8.2f}{late}"


class Server:
    """A served build with the key of its first administrator."""

    def __init__(self, url: str, key: str, log: Path) -> None:
        self._log = log
        self.client = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=None
        )
        self._pushed = 0

    async def push(self, rows: int) -> str:
        """Store a new dataset and return its name."""
        self._pushed += 1
        name = f"rows-{self._pushed}"
        row = json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"When is pier {self._pushed} open? Number %d"},
                    {
                        "role": "assistant",
                        "content": "It is open from nine to five, but not today.",
                    },
                ]
            }
        )
        body = "".join(f"{row}\n" % number for number in range(rows))
        path = f"/api/v1/org/main/datasets/{name}/1.0.0"
        (await self.client.put(path, content=body.encode())).raise_for_status()
        return name

    async def create(self, dataset: str) -> Took:
        """Create a job, again after a 429, and wait for the end of its check."""
        config = {
            "dataset_ref": {"name": dataset, "version": "1.0.0"},
            "steps": 1,
            "max_sequence_length": 128,
        }
        body = {
            "model": "Qwen/Qwen3-8B", "trainer_type": "sft", "rehearse": True, "config": config,
        }  # fmt: skip
        began = time.perf_counter()
        response = await self.client.post(PATH, json=body)
        while response.status_code == 429:
            await asyncio.sleep(float(response.headers["Retry-After"]))
            response = await self.client.post(PATH, json=body)
        answered = time.perf_counter() - began
        assert response.status_code == 201, response.text
        job = response.json()
        if job["phase"] != "validating":
            return Took(answered)
        while job["phase"] == "validating":
            await asyncio.sleep(0.5)
            job = (await self.client.get(f"{PATH}/{job['id']}")).json()
        assert job["status"] == "queued", f"{job['error']}\n{self._log.read_text()[-4000:]}"
        return Took(answered, time.perf_counter() - began)

    async def at_once(self, jobs: int, *, same_data: bool) -> Took:
        """Create jobs at once, and return when the last one was answered."""
        names = [await self.push(1) for _ in range(1 if same_data else jobs)]
        took = await asyncio.gather(*(self.create(names[n % len(names)]) for n in range(jobs)))
        return Took(max(each.answered for each in took))


def main() -> int:
    """Print the seconds of each build, and their ratios."""
    builds = {"ours": ROOT}
    if baseline := os.environ.get("BENCH_SUBMIT_BASELINE"):
        builds["baseline"] = Path(baseline).resolve()
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        folder = Path(work)
        sys.path.insert(0, str(ROOT))
        from conftest import write_tiny_model

        tokenizer = write_tiny_model(folder / "model", "qwen3")
        command = [sys.executable, "-c", ENGINE, str(tokenizer)]
        engine = stack.enter_context(_process(command, {}, folder / "engine.log"))
        servers = {
            name: stack.enter_context(_serve(root, folder / name, engine.split()[-1]))
            for name, root in builds.items()
        }
        asyncio.run(_measure(servers))
    return 0


async def _measure(servers: dict[str, Server]) -> None:
    for server in servers.values():
        await server.create(await server.push(1))  # A start is not what is measured.
    first: dict[str, list[float]] = {name: [] for name in servers}
    second: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            dataset = await server.push(1)
            first[name].append((await server.create(dataset)).answered)
            second[name].append((await server.create(dataset)).answered)
    _show("one row, new data", {n: Took(statistics.median(each)) for n, each in first.items()})
    _show("one row, same data", {n: Took(statistics.median(each)) for n, each in second.items()})
    for jobs in JOBS:
        for same in (True, False):
            took = {}
            for name, server in servers.items():
                took[name] = await server.at_once(jobs, same_data=same)
            _show(f"{jobs} jobs at once, {'same' if same else 'own'} data", took)
    for rows in ROWS:
        datasets = {name: await each.push(rows) for name, each in servers.items()}
        for data in ("new", "same"):
            took = {name: await each.create(datasets[name]) for name, each in servers.items()}
            _show(f"{rows:,} rows, {data} data", took)
    for server in servers.values():
        await server.client.aclose()


def _show(case: str, took: dict[str, Took]) -> None:
    line = f"{case:32}" + "  ".join(f"{name} {each} s" for name, each in took.items())
    if "baseline" in took:
        line += f"  {took['baseline'].answered / took['ours'].answered:.1f} times faster"
    print(line, flush=True)


@contextmanager
def _serve(root: Path, folder: Path, engine_port: str) -> Iterator[Server]:
    """Serve the build at ROOT with its data in FOLDER."""
    folder.mkdir()
    module = "dreadnode_api" if (root / "packages/api/dreadnode_api").is_dir() else "app"
    paths = [str(root / "packages" / name) for name in PACKAGES]
    _write_metadata(root, folder / "metadata")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    runtime_path = os.pathsep.join(paths)
    environment = {
        "DREADNODE_DATA_DIR": str(folder / "data"), "DREADNODE_RATE_LIMIT": "0",
        "DREADNODE_PREFLIGHT_TIMEOUT": "7200", "DREADNODE_MAX_DATASET_BYTES": str(2**31),
        "DREADNODE_RUNTIME_COMMAND":
            f"/usr/bin/env PYTHONPATH={runtime_path} {sys.executable} -m dreadnode_runtime",
        "PYTHONPATH": os.pathsep.join([*paths, str(folder / "metadata")]),
        "TINKER_BASE_URL": f"http://127.0.0.1:{engine_port}", "TINKER_API_KEY": "tml-bench",
    }  # fmt: skip
    command = [sys.executable, "-m", module]
    environment = os.environ | environment
    made = subprocess.run(
        [*command, "init"], env=environment, cwd=folder, check=True, capture_output=True
    )
    key = json.loads(made.stdout)["token"]
    log = folder / "serve.log"
    with _process([*command, "serve", "--port", str(port)], environment, log):
        yield Server(f"http://127.0.0.1:{port}", key, log)


def _write_metadata(root: Path, folder: Path) -> None:
    """Write the metadata of a build's distributions, which are not installed."""
    for package in PACKAGES:
        project = tomllib.loads((root / "packages" / package / "pyproject.toml").read_text())
        name, version = (project["project"][each] for each in ("name", "version"))
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[str]:
    """Run a process, yield the line that says it is ready, and end it."""
    running = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        stderr=log.open("w"), text=True,
    )  # fmt: skip
    assert running.stdout is not None
    line = running.stdout.readline()
    assert "ready" in line, line
    yield line
    running.terminate()
    running.wait(60)


if __name__ == "__main__":
    sys.exit(main())
