"""The stream of a job's events: its form, and that nothing is missed or told twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from dreadnode import ApiClient, AsyncApiClient
from dreadnode.errors import AuthenticationError, ConnectionFailed, ProtocolError
from dreadnode.http.sse import Message, Reader

DROP = "drop"


def read(text: str) -> list[Message]:
    reader = Reader()
    return [message for line in text.splitlines() if (message := reader.read(line))]


def test_an_event_is_its_fields_up_to_an_empty_line() -> None:
    assert read("id: 1\nevent: log\ndata: a\ndata:b\n\n") == [Message("1", "log", "a\nb")]


def test_what_keeps_the_connection_alive_is_no_event() -> None:
    assert read("retry: 1000\n\n: still here\n\n\n") == []


def test_an_event_that_was_cut_off_is_none() -> None:
    assert read("id: 1\ndata: a\n\nid: 2\nevent: log\ndata: b\n") == [Message("1", "message", "a")]


def event(number: int) -> str:
    body = {"type": "log", "timestamp": "2026-11-22T03:00:00Z", "message": f"line {number}"}
    return f"id: {number}\nevent: log\ndata: {json.dumps(body)}\n\n"


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends, or breaks where a part says so."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if part == DROP:
                raise httpx.ReadError("dropped")
            yield part.encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Events:
    """Answers each request for a job's events with the next of the given answers."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.after: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.after.append(request.url.params["after"])
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(*parts: str) -> httpx.Response:
    return httpx.Response(200, stream=Stream(*parts))


@pytest.fixture(params=["blocking", "awaiting"])
def watch(request: pytest.FixtureRequest) -> Any:
    """Watch a job with each client in turn; returns the ids of the events that it yields."""
    options: dict[str, Any] = {"organization": "main", "workspace": "default"}

    async def watch(events: Events, **kwargs: Any) -> list[int]:
        options["transport"] = httpx.MockTransport(events)
        if request.param == "blocking":
            blocking = ApiClient("http://a.test", sleep=lambda _: None, **options)
            return [each.id for each in blocking.watch_training_job("job-1", **kwargs)]

        async def sleep(seconds: float) -> None:
            pass

        awaiting = AsyncApiClient("http://a.test", sleep=sleep, **options)
        return [each.id async for each in awaiting.watch_training_job("job-1", **kwargs)]

    return watch


async def test_events_are_told_once_and_in_order_through_drops_and_restarts(watch: Any) -> None:
    events = Events(
        answer("retry: 1000\n\n", event(1), event(2)[:30], DROP),
        httpx.ConnectError("refused"),
        httpx.Response(502),
        answer(event(2), ": still here\n\n", event(3)),
        answer(),
        httpx.Response(204),
    )

    assert await watch(events) == [1, 2, 3]
    assert events.after == ["0", "1", "1", "1", "3", "3"]


async def test_watching_goes_on_behind_what_was_seen(watch: Any) -> None:
    events = Events(answer(event(8)), httpx.Response(204))

    assert await watch(events, after=7) == [8]
    assert events.after == ["7", "8"]


async def test_watching_gives_up_on_a_server_that_stays_silent(watch: Any) -> None:
    with pytest.raises(ConnectionFailed):
        await watch(Events(httpx.ConnectError("refused")), patience=0)


async def test_a_key_that_was_revoked_ends_the_watching(watch: Any) -> None:
    with pytest.raises(AuthenticationError):
        await watch(Events(answer(event(1)), httpx.Response(401, json={"detail": "No"})))


@pytest.mark.parametrize("data", ["not json", "[]", '{"type": "log"}'])
async def test_an_event_that_is_none_is_a_sentence(watch: Any, data: str) -> None:
    with pytest.raises(ProtocolError):
        await watch(Events(answer(f"id: 1\ndata: {data}\n\n")))
