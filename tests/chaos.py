"""A whole server under load, of which something is struck every few seconds.

`dn serve` with the real engine, the real runtime and a tiny random model. Struck are the API, the
dispatcher, the engine, a sandbox, a sandbox's supervisor, and `dn serve` itself, each with `kill
-9`; and the disk, which is full, and the database, which goes away or is locked; and other clients
hold connections, or ask for all they can get. Meanwhile jobs are submitted, and some cancelled, by
a client that only knows that an answer may be lost, and another one measures how long a read takes
it. Afterwards

* every job that was accepted, and no other, has reached a truthful end: completed with the losses
  of an unbroken run, to the last bit, or, if somebody wished it, cancelled with the first of them;
* none ever had two sandboxes at once;
* no event that a sandbox got an answer to is lost, and events are numbered without gaps;
* during what leaves the server alive, reads of others were served;
* no process is left, no lease, no change of state that nobody looked at, and no lock.

The short run is `test_chaos_of_a_whole_server.py`, the long one `benchmarks/bench_chaos.py`.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import re
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
from dreadnode_api.db import Database
from dreadnode_api.models.jobs import Job
from dreadnode_api.models.webhooks import Announcement
from dreadnode_api.settings import Settings
from sqlalchemy import select

from .databases import Served, database
from .greedy import be_greedy, be_slow, create_organization
from .server import MODEL, Server

VICTIMS = {
    "API": "dreadnode_api serve",
    "dispatcher": "dreadnode_api dispatch",
    "engine": "dreadnode_engine",
    "sandbox": "--job-id",
    "supervisor": "supervisor.py",
}
"""What is killed, and what its command line holds."""
SERVICES = ("API", "dispatcher", "engine")
TROUBLES = (
    *VICTIMS, "engine at work", "whole server", "full disk", "database away", "locked database",
    "slow clients", "greedy organization",
)  # fmt: skip
SERVED_DURING = ("full disk", "locked database", "slow clients", "greedy organization")
"""Troubles during which everybody else is served."""
QUIET = "nothing"
PROBE_SECONDS = 0.05
ROWS = [{"prompt": f"{n}+{n}?", "response": f"{2 * n}"} for n in range(12)]
JOBS = "/ws/default/training/jobs"
PROBED = "/datasets"
RUNTIME = Path(__file__).with_name("telling_runtime.py")
LEFT_WITHIN = 30.0  # seconds
LAST_WORDS = 4000  # characters


@dataclass(frozen=True)
class Plan:
    """How much is to be done meanwhile, and how hard it is struck.

    Attributes:
        seed: Of what is struck when.
        steps: Of each job.
        at_once: Jobs that may run at once.
        waiting: Jobs beyond those that are kept in the queue.
        pauses: The shortest and the longest time between two strikes, in seconds.
        away: Seconds for which the disk is full, or the database away.
        within: Seconds that anything may take.
    """

    seed: int
    steps: int = 30
    at_once: int = 3
    waiting: int = 2
    pauses: tuple[float, float] = (1.0, 5.0)
    away: float = 4.0
    within: float = 900.0


class Chaos:
    """Jobs and strikes on one server.

    Attributes:
        cancelled: Jobs that somebody wished to end.
        struck: What was struck how often.
        latencies: The seconds that a read of another client took, by what was struck meanwhile.
        unserved: How many such reads failed, by the same.
    """

    def __init__(self, server: Server, database: Served, plan: Plan):
        self.server = server
        self.plan = plan
        self.accepted: list[str] = []
        self.cancelled: set[str] = set()
        self.struck: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {}
        self.unserved: Counter[str] = Counter()
        self._database = database
        self._trouble = QUIET
        self._greedy = ""
        self._most: Counter[str] = Counter()
        self._chance = random.Random(plan.seed)
        self._story: list[str] = []
        self._over = False
        self._began = time.monotonic()
        self._client: httpx2.AsyncClient

    async def run(self, troubles: Iterable[str]) -> None:
        """Strike with one trouble after the other while jobs run, and wait for all their ends."""
        await asyncio.to_thread(self.server.start)
        self._client = self._open()
        self._greedy = await asyncio.to_thread(
            create_organization, self.server.data, self.server.environment
        )
        rows = "".join(json.dumps(row) + "\n" for row in ROWS)
        await self._ask("PUT", "/datasets/rows/1.0.0", content=rows)
        # Nothing is struck while the first one runs; all others are held against it.
        await self._ended(await self._submit())
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            probing = group.create_task(self._probe())
            busy = group.create_task(self._keep_busy())
            for trouble in troubles:
                await asyncio.sleep(self._chance.uniform(*self.plan.pauses))
                await self._strike(trouble)
            self._over = True
            probing.cancel()
            await busy
            for job_id in self.accepted:
                await self._ended(job_id)
            watching.cancel()
        self._note("all have ended")

    async def verify(self) -> None:
        """Check all that must hold when all jobs have ended, then stop the server, and the rest."""
        unserved = [each for each in SERVED_DURING if self.struck[each]]
        unserved = [each for each in unserved if not self.latencies.get(each)]
        assert not unserved, f"during these, nobody else was served: {unserved}"
        losses = (await self._job(self.accepted[0]))["metrics"]["train/loss"]
        assert len(losses) == self.plan.steps
        heard = self._acknowledged(self.accepted[0])
        assert heard.total() > self.plan.steps, f"what is acknowledged is not seen: {heard}"
        for job_id in self.accepted:
            job = await self._job(job_id)
            self._is_truthful(job, losses)
            await self._nothing_is_lost(job)
        assert max(self._most.values(), default=0) == 1, f"at once: {self._most.most_common(3)}"
        await self._client.aclose()
        assert await asyncio.to_thread(self.server.stop) == 0, "dn serve did not stop as it should"
        await self._nothing_is_left()

    async def attempts(self) -> int:
        """Return how many attempts all jobs took."""
        return sum([(await self._job(job_id))["attempt"] for job_id in self.accepted])

    def story(self) -> str:
        """Return what was done when, and the last words of everybody."""
        logs = [self.server.log, *sorted((self.server.data / "logs").glob("*.log"))]
        words = [f"{log.name} ends with:\n{log.read_text()[-LAST_WORDS:]}" for log in logs]
        return "\n".join([f"seed {self.plan.seed}", *self._story, *words])

    def _open(self) -> httpx2.AsyncClient:
        """Return a client with the key that the first start printed."""
        key = re.search(r"dn_[\w-]{43}", self.server.log.read_text())
        assert key is not None, "the first start printed no key"
        return httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.server.ports[0]}/api/v1/org/main",
            headers={"Authorization": f"Bearer {key[0]}"},
            timeout=30,
        )

    def _note(self, what: str) -> None:
        self._story.append(f"{time.monotonic() - self._began:6.1f} s  {what}")

    def _in_time(self) -> Iterator[None]:
        """Yield until there was time enough."""
        until = time.monotonic() + self.plan.within
        while time.monotonic() < until:
            yield

    # What a patient client does.

    async def _ask(self, method: str, path: str, *, but: int = 0, **more: Any) -> Any:
        """Make a request until it is answered, with BUT for the one refusal that is expected."""
        trouble = ""
        for _ in self._in_time():
            try:
                answer = await self._client.request(method, path, **more)
            except httpx2.HTTPError as error:
                trouble = repr(error)
            else:
                if answer.status_code < 500:
                    assert answer.status_code < 400 or answer.status_code == but, answer.text
                    return answer.json()
                trouble = answer.text
            await asyncio.sleep(0.3)
        raise AssertionError(f"{method} {path} is not answered: {trouble}")

    async def _submit(self) -> str:
        """Create a job, once, whatever becomes of the answers."""
        config = {
            "dataset_ref": {"name": "rows", "version": "1.0.0"}, "steps": self.plan.steps,
            "batch_size": 4, "lora_rank": 4, "learning_rate": 1e-2, "checkpoint_interval": 5,
        }  # fmt: skip
        body = {"model": MODEL, "trainer_type": "sft", "config": config}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        job = await self._ask("POST", JOBS, json=body, headers=key)
        self._note(f"accepted {job['id']}")
        self.accepted.append(str(job["id"]))
        return self.accepted[-1]

    async def _job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = await self._ask("GET", f"{JOBS}/{job_id}")
        return job

    async def _ended(self, job_id: str) -> None:
        """Return when a job has ended."""
        for _ in self._in_time():
            job = await self._job(job_id)
            if job["completed_at"] is not None:
                return
            await asyncio.sleep(0.3)
        raise AssertionError(f"the job does not end: {job}")

    async def _keep_busy(self) -> None:
        """Keep more jobs unfinished than may run, and cancel every third at some moment."""
        waiting: set[str] = set()
        while not self._over:
            waiting = {i for i in waiting if (await self._job(i))["completed_at"] is None}
            if len(waiting) < self.plan.at_once + self.plan.waiting:
                waiting.add(await self._submit())
            else:
                await asyncio.sleep(1)
            for job_id in waiting & set(self.accepted[2::3]) - self.cancelled:
                if self._chance.random() < 0.3:
                    self.cancelled.add(job_id)
                    self._note(f"cancelling {job_id}")
                    # It may have ended by now, if only because an answer was lost.
                    await self._ask("POST", f"{JOBS}/{job_id}/cancel", but=409)

    # What strikes.

    async def _strike(self, trouble: str) -> None:
        if trouble in SERVED_DURING:
            await self._ask("GET", PROBED)  # The server has come back from what was struck before.
        self._note(trouble)
        self._trouble = trouble
        if trouble == "full disk":
            with self._full_disk():
                await asyncio.sleep(self.plan.away)
        elif trouble == "database away":
            await self._database.take_away(self.plan.away)
        elif trouble == "locked database":
            await self._database.lock(self.plan.away)
        elif trouble == "slow clients":
            await be_slow(self.server.ports[0], self._greedy, self.plan.away)
        elif trouble == "greedy organization":
            address = f"http://127.0.0.1:{self.server.ports[0]}"
            statuses = await be_greedy(address, self._greedy, self.plan.away)
            self._note(f"statuses of the greedy organization: {dict(statuses)}")
            assert not {each for each in statuses if each >= 500} - {503}, statuses
        elif trouble == "whole server":
            await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.start)
        elif trouble == "engine at work":
            await self._until_one_trains()
            await self._kill("engine")
        else:
            await self._kill(trouble)
        self._trouble = QUIET
        self.struck[trouble] += 1
        self._note("struck")

    async def _kill(self, victim: str) -> None:
        """Kill a process of this kind as soon as there is one."""
        for _ in self._in_time():
            if found := await asyncio.to_thread(self.server.processes, VICTIMS[victim]):
                with contextlib.suppress(psutil.Error):
                    self._chance.choice(found).kill()
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"there never was a {victim} to kill")

    async def _until_one_trains(self) -> None:
        for _ in self._in_time():
            page = await self._ask("GET", f"{JOBS}?status=running")
            if any(job["phase"] == "training" for job in page["items"]):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("no job ever trained")

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Have every write of the three services, and of what they start meanwhile, refused."""
        struck = [p for name in SERVICES for p in self.server.processes(VICTIMS[name])]
        for bound in (0, resource.RLIM_INFINITY):
            for process in struck:
                with contextlib.suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))
            if not bound:
                yield

    # What is seen.

    async def _probe(self) -> None:
        """Measure how long a read takes another client, whatever is struck."""
        async with self._open() as client:
            while True:
                trouble, started = self._trouble, time.monotonic()
                try:
                    served = (await client.get(PROBED)).is_success
                except httpx2.HTTPError:
                    served = False
                if served:
                    taken = time.monotonic() - started
                    self.latencies.setdefault(trouble, []).append(taken)
                else:
                    self.unserved[trouble] += 1
                await asyncio.sleep(PROBE_SECONDS)

    async def _watch(self) -> None:
        """Keep the most sandboxes that each job ever had at once."""
        while True:
            self._most |= await asyncio.to_thread(self._sandboxes)
            await asyncio.sleep(0.2)

    def _sandboxes(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for process in self.server.processes(VICTIMS["sandbox"]):
            # A sandbox leads a session; its children have its name until they have their own.
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == process.pid:
                    found[process.cmdline()[-1]] += 1
        return found

    def _is_truthful(self, job: dict[str, Any], losses: list[float]) -> None:
        told = (job["metrics"] or {}).get("train/loss", [])
        if job["id"] in self.cancelled and job["status"] == "cancelled":
            assert told == losses[: len(told)], job
        else:
            assert (job["status"], job["error"], told) == ("completed", None, losses), job

    async def _nothing_is_lost(self, job: dict[str, Any]) -> None:
        answer = await self._client.get(f"{JOBS}/{job['id']}/events")
        numbers = re.findall(r"^id: (\d+)$", answer.text, re.MULTILINE)
        assert numbers == [str(n + 1) for n in range(len(numbers))], (job["id"], numbers)
        told = [json.loads(data) for data in re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)]
        kept = Counter((event["type"], event["data"].get("step")) for event in told)
        lost = self._acknowledged(job["id"]) - kept
        assert not lost, f"of {job['id']} was acknowledged and is gone: {lost}"
        if job["status"] == "completed":
            steps = {step for kind, step in kept if kind == "step_complete"}
            assert steps == set(range(1, self.plan.steps + 1)), (job["id"], steps)
            ends = [event for event in told if event["type"] == "training_end"]
            assert len(ends) == 1, (job["id"], ends)

    def _acknowledged(self, job_id: str) -> Counter[tuple[str, int | None]]:
        """Return which events the sandboxes of a job got an answer to; phases are not kept."""
        found: Counter[tuple[str, int | None]] = Counter()
        for output in (self.server.data / "jobs" / job_id).glob("*/output*.log"):
            for line in re.findall(r"^acknowledged (.*)$", output.read_text(), re.MULTILINE):
                event = json.loads(line)
                found[event["type"], event["step"]] += event["type"] != "phase"
        return found

    async def _nothing_is_left(self) -> None:
        """Check that a stopped server has left neither process, nor lease, nor lock."""
        until = time.monotonic() + LEFT_WITHIN
        while left := self.server.processes():
            assert time.monotonic() < until, f"left: {[process.cmdline() for process in left]}"
            await asyncio.sleep(0.2)
        url = self.server.settings["DREADNODE_DATABASE_URL"]
        database = Database(Settings(data_dir=self.server.data, database_url=url).database_url)
        async with database.reading() as session:
            jobs = await session.scalars(select(Job.id))
            leased = await session.scalars(select(Job.id).where(Job.lease.is_not(None)))
            unseen = await session.scalars(select(Announcement.job_id))
        await database.dispose()
        assert sorted(jobs) == sorted(self.accepted), "the server has other jobs than it accepted"
        assert (list(leased), list(unseen)) == ([], []), "leased, and not looked at"
        with (self.server.data / "serve.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@asynccontextmanager
async def chaos(kind: str, folder: Path, model: Path, plan: Plan) -> AsyncIterator[Chaos]:
    """Yield chaos on a database of this KIND; of one that fails it tells the story."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  (nothing else runs yet)
    async with database(kind, folder) as served:
        settings = {
            "DREADNODE_ATTEMPTS": "1000", "DREADNODE_RETRY_SECONDS": "0.1",
            "DREADNODE_DATABASE_URL": served.url, "DREADNODE_JOBS_AT_ONCE": str(plan.at_once),
            "DREADNODE_JOBS_AT_ONCE_PER_WORKSPACE": str(plan.at_once),
            "DREADNODE_LEASE_SECONDS": "3", "DREADNODE_RATE_LIMIT": "0",
            "DREADNODE_RUNTIME_COMMAND": f"{sys.executable} {RUNTIME}",
        }  # fmt: skip
        made = Chaos(Server(folder, model, settings), served, plan)
        try:
            yield made
        except BaseException as failed:
            failed.add_note(made.story())
            raise
        finally:
            for left in made.server.processes():
                with contextlib.suppress(psutil.Error):
                    left.kill()


def again_and_again(seed: int, seconds: float) -> Iterator[str]:
    """Yield troubles for so long, each kind before one comes again."""
    chance, until = random.Random(seed), time.monotonic() + seconds
    while True:
        for trouble in chance.sample(TROUBLES, len(TROUBLES)):
            if time.monotonic() > until:
                return
            yield trouble
