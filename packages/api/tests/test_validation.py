"""Jobs whose data takes long to check: created in time, checked before any compute, one check."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from dreadnode_api.runtime_processes.folder import PARENT, process_folder

ENGINE = {"supported_models": [{"model_name": "Qwen/Qwen3-8B", "trainable": True}]}


@asynccontextmanager
async def engine_server() -> AsyncIterator[str]:
    """A server that answers every request with the capabilities of an engine."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(ENGINE).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Remote:
    """A client of the served process, where `service.api` is an application in this process."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{service.port}/api/v1"
        self.headers = {"Authorization": f"Bearer {service.api.keys['admin']}"}
        self.client = httpx2.AsyncClient(headers=self.headers, timeout=30)

    async def create(self, key: str | None = None, **behavior: Any) -> httpx2.Response:
        body = {
            "model": "Qwen/Qwen3-8B",
            "trainer_type": "sft",
            "config": {
                "dataset_ref": {"name": "rows", "version": "1.0.0"},
                "system_prompt": json.dumps(behavior),
            },
        }
        headers = {"Idempotency-Key": key} if key else {}
        return await self.client.post(self.url + self.service.api.jobs, json=body, headers=headers)

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (
            await self.service.api("GET", f"{self.service.api.jobs}/{job_id}")
        ).json()
        return job


@pytest.fixture
async def remote(service: Any) -> AsyncIterator[Remote]:
    """A served process with a dataset, which answers after half a second at most."""
    await service.api.push()
    object.__setattr__(service.api.settings, "preflight_wait_seconds", 0.5)
    async with engine_server() as url:
        service.environ = {"TINKER_BASE_URL": url}
        service.start("serve")
        remote = Remote(service)
        yield remote
        await remote.client.aclose()


async def started_check(log: Path) -> psutil.Process:
    """Return the process of a check that has written its number to LOG."""
    await until(lambda: _pid(log) is not None)
    return psutil.Process(_pid(log))


def _pid(log: Path) -> int | None:
    text = log.read_text() if log.exists() else ""
    return int(text) if text.endswith("\n") else None


async def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.05)


async def test_a_job_with_a_slow_check_is_created_in_time_and_runs_after_the_check(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    service.start("dispatch")
    done = tmp_path / "done"

    created = (await remote.create(check="until", file=str(done))).json()
    await asyncio.sleep(4 * service.api.settings.poll_seconds)
    waiting = await remote.job(created["id"])
    done.touch()
    ended = await service.ended(created["id"])

    assert (created["status"], created["phase"], created["preflight"]) == (
        "queued",
        "validating",
        None,
    )
    assert (waiting["phase"], waiting["attempt"]) == ("validating", 0)
    assert (ended["status"], ended["preflight"]["rows"]) == ("completed", 8)
    assert ended["preflight"]["datasets"][0]["name"] == "rows"


async def test_a_job_whose_data_is_refused_late_fails_with_the_same_message_before_compute(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    service.start("dispatch")
    done = tmp_path / "done"
    refused = await remote.create(check="refuse")

    created = (await remote.create(check="refuse", file=str(done))).json()
    done.touch()
    ended = await service.ended(created["id"])

    assert refused.status_code == 422
    assert created["phase"] == "validating"
    assert (ended["status"], ended["error"], ended["error_code"], ended["attempt"]) == (
        "failed",
        refused.json()["detail"],
        "invalid_data",
        0,
    )
    retried = await service.api("POST", f"{service.api.jobs}/{created['id']}/retry")
    assert retried.status_code == 409
    assert "has not passed its check" in retried.json()["detail"]


async def test_cancelling_a_job_stops_its_check(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    created = (await remote.create(check="hang-after-log", log=str(log))).json()
    check = await started_check(log)

    cancelled = await service.api("POST", f"{service.api.jobs}/{created['id']}/cancel")
    retried = await service.api("POST", f"{service.api.jobs}/{created['id']}/retry")
    deleted = await service.api("DELETE", f"{service.api.jobs}/{created['id']}")

    assert deleted.status_code < 300
    assert cancelled.json()["status"] == "cancelled"
    await until(lambda: not check.is_running())
    assert retried.status_code == 409
    assert "has not passed its check" in retried.json()["detail"]


async def test_a_check_continues_after_the_process_that_ran_it(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    created = (await remote.create(check="until", file=str(done))).json()

    service.send("serve", 9)
    done.touch()
    service.start("serve", "dispatch")

    assert (await service.ended(created["id"], 90))["status"] == "completed"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_start_deletes_the_folders_of_killed_processes_and_no_others(
    remote: Remote, service: Any
) -> None:
    (await remote.create()).raise_for_status()
    parent = service.api.settings.data_dir / PARENT
    abandoned = set(parent.iterdir())
    with process_folder(service.api.settings.data_dir, "used-") as used:
        service.send("serve", 9)
        service.start("serve")
        kept = used.exists()

    assert abandoned
    assert kept
    assert not [folder for folder in abandoned if folder.exists()]


async def test_requests_with_one_idempotency_key_share_one_check_and_one_job(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    done, log = tmp_path / "done", tmp_path / "log"
    behavior = {"check": "until", "file": str(done), "log": str(log)}

    responses = await asyncio.gather(*(remote.create("one", **behavior) for _ in range(4)))
    done.touch()
    await until(log.exists)
    late = await remote.create("one", **behavior)

    assert {response.json()["id"] for response in (*responses, late)} == {late.json()["id"]}
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 201]
    assert len(log.read_text().splitlines()) == 1


async def test_another_request_with_the_key_of_one_that_is_being_checked_is_a_conflict(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    done = tmp_path / "done"

    both = [
        asyncio.create_task(remote.create("one", check="until", file=str(done), number=number))
        for number in range(2)
    ]
    done.touch()
    responses = await asyncio.gather(*both)

    assert sorted(response.status_code for response in responses) == [201, 409]
    assert await service.api.count() == 1


async def test_a_second_job_on_the_same_data_is_not_checked_again(
    remote: Remote, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    first, second = [await remote.create(log=str(log)) for _ in range(2)]

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert first.json()["preflight"] == second.json()["preflight"]
    assert len(log.read_text().splitlines()) == 1


async def test_a_client_that_disconnects_stops_its_check_and_gets_no_job(
    remote: Remote, service: Any, tmp_path: Path
) -> None:
    object.__setattr__(service.api.settings, "preflight_wait_seconds", 60.0)
    service.send("serve", 15)
    service.start("serve")
    log = tmp_path / "log"
    asking = asyncio.create_task(remote.create(check="hang-after-log", log=str(log)))
    check = await started_check(log)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await until(lambda: not check.is_running())
    assert await service.api.count() == 0


async def test_a_check_that_cannot_start_in_time_is_a_429_and_no_job(
    remote: Remote, service: Any
) -> None:
    object.__setattr__(service.api.settings, "preflight_at_once", 1)
    service.send("serve", 15)
    service.start("serve")

    # The first takes the slot for slow checks, the second keeps the slot for requests.
    slow = [await remote.create(check="hang", number=number) for number in range(2)]
    refused = await remote.create(check="hang", number=3)

    assert [response.status_code for response in slow] == [201, 201]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert refused.json()["type"] == "usage_limit_exceeded_error"
    assert await service.api.count() == 2
