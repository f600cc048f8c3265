"""The stream of a job's events: every event arrives once, through drops and restarts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from dreadnode import ApiClient, AsyncApiClient
from dreadnode.errors import AuthenticationError, ConnectionFailed, ProtocolError

DROP = "drop"


def event(number: int) -> str:
    body = {"type": "log", "timestamp": "2026-11-22T03:00:00Z", "message": f"line {number}"}
    return f"id: {number}\nevent: log\ndata: {json.dumps(body)}\n\n"


class Stream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that ends, or breaks where a part says so."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if part == DROP:
                raise httpx2.ReadError("dropped")
            yield part.encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Events:
    """Answers each request for a job's events with the next of the given answers."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self._answers = list(answers)
        self.after: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.after.append(request.url.params["after"])
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(*parts: str) -> httpx2.Response:
    return httpx2.Response(
        200, headers={"Content-Type": "text/event-stream"}, stream=Stream(*parts)
    )


@pytest.fixture(params=["sync", "async"])
def watch(request: pytest.FixtureRequest) -> Any:
    """Watch a job with each client in turn; returns the ids of the events that it yields."""
    options: dict[str, Any] = {"organization": "main", "workspace": "default"}

    async def watch(events: Events, **kwargs: Any) -> list[int]:
        options["transport"] = httpx2.MockTransport(events)
        if request.param == "sync":
            client = ApiClient("http://a.test", sleep=lambda _: None, **options)
            return [
                each.id
                for each in client.watch_training_job(
                    "01900001-0000-7000-8000-000000000000", **kwargs
                )
            ]

        async def sleep(seconds: float) -> None:
            pass

        other = AsyncApiClient("http://a.test", sleep=sleep, **options)
        return [
            each.id
            async for each in other.watch_training_job(
                "01900001-0000-7000-8000-000000000000", **kwargs
            )
        ]

    return watch


async def test_every_event_arrives_once_and_in_order_through_lost_connections_and_restarts(
    watch: Any,
) -> None:
    events = Events(
        answer("retry: 1000\n\n", event(1), event(2)[:30], DROP),
        httpx2.ConnectError("refused"),
        httpx2.Response(502),
        answer(event(2), ": still here\n\n", event(3)),
        answer(),
        httpx2.Response(204),
    )

    assert await watch(events) == [1, 2, 3]
    assert events.after == ["0", "1", "1", "1", "3", "3"]


async def test_watching_resumes_after_the_last_event(watch: Any) -> None:
    events = Events(answer(event(8)), httpx2.Response(204))

    assert await watch(events, after=7) == [8]
    assert events.after == ["7", "8"]


async def test_watching_ends_after_a_long_outage(watch: Any) -> None:
    with pytest.raises(ConnectionFailed):
        await watch(Events(httpx2.ConnectError("refused")), max_outage=0)


async def test_a_revoked_token_ends_the_stream(watch: Any) -> None:
    with pytest.raises(AuthenticationError):
        await watch(Events(answer(event(1)), httpx2.Response(401, json={"detail": "No"})))


@pytest.mark.parametrize("data", ["not json", "[]", '{"type": "log"}'])
async def test_an_invalid_event_is_an_error_of_the_client(watch: Any, data: str) -> None:
    with pytest.raises(ProtocolError):
        await watch(Events(answer(f"id: 1\ndata: {data}\n\n")))


async def test_a_broken_stream_without_events_is_opened_again(watch: Any) -> None:
    events = Events(answer(": still here\n\n", DROP), answer(event(1)), httpx2.Response(204))

    assert await watch(events, max_outage=0) == [1]
