"""A runner that cannot be asked: nothing is concluded from silence."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dreadnode_api.jobs.dispatcher import Dispatcher
from dreadnode_api.sandbox.runner import Exited, RunnerUnavailable, Running, Sandbox, State


class Cluster:
    """A runner whose sandboxes run until they are told to end, and which can be out of reach."""

    def __init__(self) -> None:
        self.away = False
        self.asked_in_vain = 0
        self.started: list[tuple[str, int]] = []
        self.ends: dict[tuple[str, int], Exited] = {}

    def _ask(self) -> None:
        if self.away:
            self.asked_in_vain += 1
            raise RunnerUnavailable("the cluster does not answer")

    async def start(self, sandbox: Sandbox) -> None:
        self._ask()
        self.started.append((sandbox.job_id, sandbox.attempt))

    async def state(self, job_id: str, attempt: int) -> State:
        self._ask()
        return self.ends.get((job_id, attempt), Running())

    async def heartbeat(self, job_id: str, attempt: int) -> None: ...

    async def stop(self, job_id: str, attempt: int) -> None:
        self._ask()
        self.ends[job_id, attempt] = Exited(-15, "stopped")

    kill = stop

    async def usage(self, job_id: str, attempt: int) -> object:
        return None

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        self._ask()
        return []

    async def clean(self, job_id: str, attempt: int) -> None:
        self._ask()


@asynccontextmanager
async def dispatching(api: Any, cluster: Cluster) -> AsyncIterator[None]:
    """Run a dispatcher with this runner; at the end it drains."""
    stop, abandon = asyncio.Event(), asyncio.Event()
    dispatcher = Dispatcher(api.settings, api.database, cluster, "host")
    running = asyncio.create_task(dispatcher.run(stop, abandon))
    try:
        yield
    finally:
        stop.set()
        await running


async def until(api: Any, job_id: str, **wanted: Any) -> dict[str, Any]:
    job: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while {name: job.get(name) for name in wanted} != wanted:
            await asyncio.sleep(0.02)
            job = (await api("GET", f"{api.jobs}/{job_id}")).json()
    return job


@pytest.fixture
async def job(api: Any) -> dict[str, Any]:
    await api.push()
    created: dict[str, Any] = await api.job()
    return created


async def test_a_running_job_stays_running_while_its_runner_is_unreachable(
    api: Any, job: dict[str, Any]
) -> None:
    cluster = Cluster()
    async with dispatching(api, cluster):
        await until(api, job["id"], status="running", phase="starting")
        cluster.away = True
        shown = await until(api, job["id"], phase_reason="the cluster does not answer")
        assert shown["status"] == "running"

        # Longer than a lease: the dispatcher keeps it, and nobody else takes the job.
        await asyncio.sleep(2 * api.settings.lease_seconds)
        cluster.away = False
        await until(api, job["id"], status="running", phase_reason=None)
        cluster.ends[job["id"], 1] = Exited(1)

        ended = await until(api, job["id"], status="failed")

    assert (ended["attempt"], cluster.started) == (1, [(job["id"], 1)])


async def test_a_job_waits_for_an_unreachable_runner_without_using_an_attempt(
    api: Any, job: dict[str, Any]
) -> None:
    cluster = Cluster()
    cluster.away = True
    async with dispatching(api, cluster):
        await until(api, job["id"], status="running", phase_reason="the cluster does not answer")
        async with asyncio.timeout(20):
            while cluster.asked_in_vain < 5:
                await asyncio.sleep(0.02)
        assert cluster.started == []

        cluster.away = False
        await until(api, job["id"], status="running", phase_reason=None)

        assert cluster.started == [(job["id"], 1)]


async def test_a_stopping_dispatcher_does_not_wait_forever_for_its_runner(
    api: Any, job: dict[str, Any]
) -> None:
    object.__setattr__(api.settings, "stop_grace_seconds", 0.2)
    cluster = Cluster()
    async with asyncio.timeout(30), dispatching(api, cluster):
        await until(api, job["id"], status="running", phase="starting")
        cluster.away = True

    left = (await api("GET", f"{api.jobs}/{job['id']}")).json()
    assert left["status"] == "running"
    # The next one takes it over where it stands.
    cluster.away = False
    async with dispatching(api, cluster):
        cluster.ends[job["id"], 1] = Exited(1)
        await until(api, job["id"], status="failed", attempt=1)


async def test_a_sandbox_being_started_during_a_stop_is_stopped(
    api: Any, job: dict[str, Any]
) -> None:
    cluster = Cluster()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow_start(sandbox: Sandbox) -> None:
        begun.set()
        await go_on.wait()
        cluster.started.append((sandbox.job_id, sandbox.attempt))

    cluster.start = slow_start  # type: ignore[method-assign]
    cluster.stop = stop_what_is_there(cluster)  # type: ignore[method-assign]
    async with dispatching(api, cluster), asyncio.timeout(10):
        await begun.wait()
        asyncio.get_running_loop().call_later(0.3, go_on.set)

    assert cluster.ends == {(job["id"], 1): Exited(-15, "stopped")}
    left = (await api("GET", f"{api.jobs}/{job['id']}")).json()
    assert (left["status"], left["attempt"]) == ("queued", 1)


def stop_what_is_there(cluster: Cluster) -> Callable[[str, int], Awaitable[None]]:
    """Return a `stop` that, as the real ones, does nothing to what is not started yet."""

    async def stop(job_id: str, attempt: int) -> None:
        if (job_id, attempt) in cluster.started:
            cluster.ends[job_id, attempt] = Exited(-15, "stopped")

    return stop
