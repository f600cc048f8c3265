"""What organizations share: requests, uploads, memory, and the processes that read uploads."""

import asyncio
from collections.abc import AsyncIterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from dreadnode_api.auth.guard import UPLOADS_AT_ONCE, Guard
from dreadnode_api.auth.shares import Share, SharedAmount
from dreadnode_api.datasets.row_check import RowCheck
from dreadnode_api.errors import TooManyRequests, Unavailable
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.main import create_app
from dreadnode_api.runtime_processes.child import Child
from dreadnode_api.settings import Settings
from dreadnode_api.uploads import NICENESS, UploadReader
from starlette.responses import Response

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_one_organization_gets_at_most_half_and_gives_all_of_it_back() -> None:
    amount = SharedAmount(8, "requests")
    with Share(amount, "a", 3) as share:
        with pytest.raises(TooManyRequests, match="too many requests"):
            share.grow(5)
        with Share(amount, "b", 4):
            with pytest.raises(Unavailable, match="too many requests"), Share(amount, "c", 2):
                pass
            share.grow(4)

    assert amount.used == 0
    with Share(amount, "b", 4), Share(amount, "a", 4):
        assert amount.used == 8


def test_requests_without_a_token_have_only_the_common_limit() -> None:
    amount = SharedAmount(4, "requests")

    with Share(amount, None, 4), pytest.raises(Unavailable), Share(amount, "a", 1):
        pass

    assert amount.used == 0


@one_database
async def test_too_many_uploads_of_one_organization_are_a_429_and_another_one_is_served(
    api: Any,
) -> None:
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"prompt": "a", '
        await go_on.wait()
        yield b'"response": "b"}\n'

    def push(number: int, **more: Any) -> Any:
        path = f"/org/acme/datasets/rows-{number}/1.0.0"
        return api("PUT", path, content=body(), **more)

    store = api.settings.data_dir / "blobs"
    pending = [asyncio.ensure_future(push(n)) for n in range(UPLOADS_AT_ONCE)]
    async with asyncio.timeout(60):
        while len(list(store.glob(".incoming-*"))) < UPLOADS_AT_ONCE:
            await asyncio.sleep(0.02)
    refused = await api("PUT", "/org/acme/datasets/one-more/1.0.0", content=b"{}\n")
    read = await api("GET", "/org/acme/datasets")
    theirs = await api(
        "PUT", "/org/other/datasets/rows/1.0.0", key="stranger", content=b'{"prompt": "a"'
    )
    for each in pending:
        each.cancel()
    await asyncio.gather(*pending, return_exceptions=True)

    assert (refused.status_code, refused.json()["type"]) == (429, "usage_limit_exceeded_error")
    assert int(refused.headers["Retry-After"]) > 0
    assert read.status_code == 200
    assert theirs.status_code == 422
    async with asyncio.timeout(20):
        while list(store.glob(".incoming-*")):
            await asyncio.sleep(0.02)


@one_database
async def test_requests_of_the_console_count_for_the_organization_of_their_session(
    api: Any, console: Any
) -> None:
    await console.sign_in()
    state, go_on = api.app.state, asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await Response()(scope, receive, send)

    settings = api.settings.model_copy(update={"max_connections": 4})
    guard = Guard(slow, settings, state.authenticator, state.cookies, state.invented)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await guard({**scope, "app": api.app}, receive, send)

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://api", cookies=api.client.cookies
    ) as client:
        pending = [asyncio.ensure_future(client.get("/ws/lab/jobs")) for _ in range(2)]
        async with asyncio.timeout(60):
            while guard._requests.used < 2:
                await asyncio.sleep(0.01)
        refused = await client.get("/ws/lab/jobs")
        others = asyncio.ensure_future(client.get("/sign-in"))
        async with asyncio.timeout(60):
            while guard._requests.used < 3:
                await asyncio.sleep(0.01)
        go_on.set()
        served = await asyncio.gather(*pending, others)

    assert refused.status_code == 429
    assert "Your organization has too many requests" in refused.text
    assert [answer.status_code for answer in served] == [200, 200, 200]


class Watched(FairQueue):
    """A queue that remembers whose turns there were."""

    def __init__(self) -> None:
        super().__init__(2, "uploads", wait_seconds=None)
        self.turns: list[str] = []

    async def acquire(self, group: str) -> Any:
        slot = await super().acquire(group)
        self.turns.append(group)
        return slot


@one_database
async def test_reading_an_upload_and_checking_its_rows_use_one_queue(
    api: Any, settings: Settings
) -> None:
    queue = Watched()
    api.app.state.upload_reader = UploadReader(settings, queue)
    api.app.state.row_check = RowCheck(settings, queue)

    pushed = await api(
        "PUT", "/org/acme/datasets/rows/1.0.0", content=b'{"prompt": "a", "response": "b"}\n'
    )

    assert pushed.status_code == 201
    assert queue.turns == [api.org_id, api.org_id]


async def test_a_process_that_reads_uploads_runs_after_others(tmp_path: Path) -> None:
    limits = {
        "memory_bytes": 2**30, "processes": 8, "cpu_seconds": 60, "open_files": 64,
        "disk_bytes": 2**20, "niceness": NICENESS,
    }  # fmt: skip
    child = await Child.start(
        ["/bin/sleep", "600"], folder=tmp_path, environment={"PATH": "/bin"}, limits=limits
    )
    supervisor = psutil.Process(child._process.pid)
    async with asyncio.timeout(20):
        while not (started := supervisor.children()) or started[0].name() != "sleep":
            await asyncio.sleep(0.02)

    groups = await asyncio.to_thread(_autogroups, started[0].pid)
    assert started[0].nice() == NICENESS
    assert all(group.endswith(f"nice {NICENESS}\n") for group in groups)
    await child.kill()


def _autogroups(pid: int) -> list[str]:
    """Return the scheduling group of a process, where Linux groups processes by session."""
    return [each.read_text() for each in Path(f"/proc/{pid}").glob("autogroup")]


@pytest.mark.parametrize(
    "pool",
    [
        "preflight._queue", "preflight._background", "upload_reader._queue", "row_check._queue",
        "transfers._exports", "transfers._uploads", "serving._working",
    ],
)  # fmt: skip
def test_every_pool_gives_one_organization_at_most_half(tmp_path: Path, pool: str) -> None:
    settings = Settings(data_dir=tmp_path, preflight_at_once=4, chats_at_once=4, exports_at_once=4)
    queue = attrgetter(pool)(create_app(settings).state)

    taken = [queue.try_acquire(org) is not None for org in "aaabbb"]

    assert isinstance(queue, FairQueue)
    assert taken == [True, True, False, True, True, False]
