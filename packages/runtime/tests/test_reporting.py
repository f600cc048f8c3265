"""Events arrive in order and once, whatever the API does, and training does not wait for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode_runtime.control.api import JobApi, Settings, connect, redacted
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.errors import AttemptRejected, JobFailed, TryAgain

SETTINGS = Settings("http://api", "dnj_secret", "main", "default", "job-1", attempt=2)


@asynccontextmanager
async def connected(
    api: Any, max_outage: float = 60, token: str = "dnj_secret"
) -> AsyncIterator[JobApi]:
    settings = replace(SETTINGS, api_key=token)
    transport = httpx2.ASGITransport(api.app)
    async with connect(settings, max_outage=max_outage, transport=transport) as job_api:
        yield job_api


async def test_events_arrive_numbered_and_in_order(api: Any) -> None:
    async with connected(api) as service, Reporter(service, 2, Stop()) as reporter:
        reporter.phase("training")
        reporter.log("hello", level="warning")
        reporter.report("step_complete", metrics={"steps": [1]}, data={"step": 1})
        await reporter.flush()

    assert [(e["event_type"], e["attempt"], e["seq"]) for e in api.events] == [
        ("phase", 2, 1),
        ("log", 2, 2),
        ("step_complete", 2, 3),
    ]
    assert api.events[1]["message"] == "hello"
    assert api.events[1]["level"] == "warning"


async def test_reporting_does_not_wait_for_an_unreachable_api(api: Any, eventually: Any) -> None:
    api.away_for = 2
    async with connected(api) as service, Reporter(service, 1, Stop()) as reporter:
        reporter.log("one")
        reporter.log("two")
        await eventually(lambda: api.away_for < 2)

        assert api.events == []

        await reporter.flush()

    assert [event["message"] for event in api.events] == ["one", "two"]


async def test_an_event_whose_response_was_lost_is_reported_once(api: Any) -> None:
    sent: list[httpx2.Request] = []

    class LosesFirstAnswer(httpx2.ASGITransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            sent.append(request)
            if len(sent) == 1:
                raise httpx2.ReadError("gone")
            return response

    async with (
        connect(SETTINGS, transport=LosesFirstAnswer(api.app)) as job_api,
        Reporter(job_api, 1, Stop()) as reporter,
    ):
        reporter.log("one")
        await reporter.flush()

    assert len(sent) == 2
    assert len(api.events) == 1


async def test_the_response_to_an_event_reports_a_cancellation(api: Any) -> None:
    stop = Stop()
    api.job["cancel_requested_at"] = "2026-01-01T00:00:00Z"
    async with connected(api) as service, Reporter(service, 1, stop) as reporter:
        reporter.log("one")
        await reporter.flush()

    assert stop.cancelled
    assert stop.requested


async def test_an_api_that_stays_unreachable_ends_the_attempt(api: Any) -> None:
    stop = Stop()
    api.away_for = 1000
    async with connected(api, max_outage=0) as service, Reporter(service, 1, stop) as reporter:
        reporter.log("one")
        with pytest.raises(TryAgain, match="The API was unreachable"):
            await reporter.flush()

    assert stop.requested


async def test_a_rejected_token_ends_the_attempt(api: Any) -> None:
    async with (
        connected(api, token="dnj_old") as service,
        Reporter(service, 1, Stop()) as reporter,
    ):
        reporter.log("one")
        with pytest.raises(AttemptRejected):
            await reporter.flush()


async def test_a_closed_reporter_leaves_no_task(api: Any) -> None:
    async with connected(api) as service, Reporter(service, 1, Stop()) as reporter:
        reporter.log("one")

    assert len(asyncio.all_tasks()) == 1


async def test_a_dataset_is_downloaded_and_verified(api: Any, tmp_path: Path) -> None:
    api.put([{"prompt": "a", "answer": "b"}])
    async with connected(api) as service:
        dataset = await service.dataset("talk", "1.0.0", tmp_path)

    assert dataset.name == "talk@1.0.0"
    assert dataset.path.read_bytes() == api.datasets["talk@1.0.0"]


async def test_a_missing_dataset_fails_the_job(api: Any, tmp_path: Path) -> None:
    async with connected(api) as service:
        with pytest.raises(JobFailed, match="The dataset none@1 cannot be read"):
            await service.dataset("none", "1", tmp_path)


async def test_a_file_is_stored_completely_after_an_outage_of_the_api(
    api: Any, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000)
    api.away_for = 1
    async with connected(api) as service:
        await service.upload("adapter/file", file)

    assert api.files["adapter/file"] == file.read_bytes()


def test_keys_are_removed_from_messages() -> None:
    keys = {"DREADNODE_API_KEY": "dnj_x", "TINKER_API_KEY": "tml-y"}

    assert redacted("dnj_x and tml-y", keys) == "*** and ***"
    assert "dnj_secret" not in repr(SETTINGS)
