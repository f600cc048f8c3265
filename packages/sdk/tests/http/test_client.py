"""Both clients: what they send, what they repeat, and how they read responses."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode import ApiClient, AsyncApiClient, __version__
from dreadnode.config import Scope
from dreadnode.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionFailed,
    InputError,
    JobEnded,
    ProtocolError,
    RateLimitedError,
    ServerError,
    TimedOut,
    UnknownModelError,
    UnusableFile,
    WaitTimedOut,
)
from dreadnode.http import calls
from dreadnode.http.retries import JobWait, Retries
from dreadnode.http.transport import TIMEOUT
from dreadnode.training.jobs import SftConfig, SftRequest, TrainingJob
from dreadnode.wire import DatasetRef

REQUEST = SftRequest(
    model="Qwen/Qwen3-8B", config=SftConfig(dataset_ref=DatasetRef(name="a", version="1"))
)
Both = Any


class SyncAsAsync:
    """Calls the sync client like the async one, so that each test covers both."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


@pytest.fixture
def slept() -> list[float]:
    """How long the client slept between attempts."""
    return []


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, api: Any, slept: list[float]) -> Both:
    """Each client in turn, against the test's API."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    options: dict[str, Any] = {
        "organization": "main",
        "workspace": "default",
        "transport": api.transport,
        "retries": Retries(jitter=lambda: 1.0),
    }
    if request.param == "async":
        return AsyncApiClient("http://server.test", "dn_test", sleep=sleep, **options)
    return SyncAsAsync(ApiClient("http://server.test", "dn_test", sleep=slept.append, **options))


async def test_a_response_becomes_a_typed_job_and_unknown_fields_are_ignored(
    client: Both, api: Any, make_job: Callable[..., dict[str, Any]]
) -> None:
    api.jobs = [make_job(invented_next_year=1, progress={"step": 3, "steps": 9, "also": 2})]

    job = await client.get_training_job("01900001-0000-7000-8000-000000000000")

    assert isinstance(job, TrainingJob)
    assert job.progress is not None
    assert (job.status, job.progress.step, job.has_ended) == ("queued", 3, False)


async def test_every_request_has_the_client_version_and_the_token(client: Both, api: Any) -> None:
    await client.get_user()

    (request,) = api.requests
    assert request.headers["user-agent"].startswith(f"dreadnode/{__version__} ")
    assert request.headers["authorization"] == "Bearer dn_test"
    assert request.url == "http://server.test/api/v1/user"


async def test_a_refused_request_raises_the_error_class_of_its_status(client: Both) -> None:
    with pytest.raises(UnknownModelError) as caught:
        await client.create_training_job(REQUEST.model_copy(update={"model": "Qwen/Qwen3-8"}))

    assert caught.value.suggestions == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base")
    assert caught.value.errors[0].loc == ("body", "model")


@pytest.mark.parametrize("status", [429, 503])
async def test_a_request_that_was_not_processed_is_sent_again(
    client: Both, api: Any, slept: list[float], make_refusal: Callable[..., Any], status: int
) -> None:
    api.failures = [make_refusal(status, "t", "busy") for _ in range(3)]

    await client.cancel_training_job("01900001-0000-7000-8000-000000000000")

    assert slept == [0.25, 0.5, 1.0]


async def test_retry_after_is_respected_and_too_long_a_delay_ends_the_retries(
    client: Both, api: Any, slept: list[float], make_refusal: Callable[..., Any]
) -> None:
    api.failures = [make_refusal(429, "t", "busy", **{"retry-after": "7"})]
    await client.get_user()

    api.failures = [make_refusal(429, "t", "busy", **{"retry-after": "3600"})]
    with pytest.raises(RateLimitedError) as caught:
        await client.get_user()

    assert slept == [7.0]
    assert caught.value.retry_after == 3600


async def test_a_request_on_a_broken_connection_is_sent_again_where_that_is_safe(
    client: Both, api: Any
) -> None:
    api.failures = [httpx2.ReadError("dropped")]
    await client.create_training_job(REQUEST)
    first, second = api.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]

    api.failures = [httpx2.ReadError("dropped")]
    await client.retry_training_job("01900001-0000-7000-8000-000000000000")
    first, second = api.requests[2:]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]

    api.failures = [httpx2.ReadError("dropped")]
    with pytest.raises(ConnectionFailed):
        await client.cancel_training_job("01900001-0000-7000-8000-000000000000")
    assert (
        api.asked.count(
            "POST /org/main/ws/default/training/jobs/01900001-0000-7000-8000-000000000000/cancel"
        )
        == 1
    )


async def test_an_unsent_request_is_always_sent_again(client: Both, api: Any) -> None:
    api.failures = [httpx2.ConnectError("refused")]

    await client.cancel_training_job("01900001-0000-7000-8000-000000000000")

    assert len(api.requests) == 2


async def test_the_number_of_retries_is_limited(client: Both, api: Any, slept: list[float]) -> None:
    api.failures = [httpx2.ReadTimeout("slow")] * 9

    with pytest.raises(TimedOut):
        await client.get_user()

    assert len(slept) == 3


@pytest.mark.parametrize("blocks", [True, False])
async def test_a_server_that_accepts_and_never_responds_times_out(blocks: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # The system accepts; nobody answers.
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options: Any = {"timeout": httpx2.Timeout(0.1), "retries": Retries(limit=0)}
        blocking, awaiting = ApiClient(address, **options), AsyncApiClient(address, **options)
        asked = asyncio.to_thread(blocking.get_user) if blocks else awaiting.get_user()

        with pytest.raises(TimedOut, match="did not answer in time"):
            await asked


def test_the_timeout_is_five_seconds_to_connect_and_thirty_for_the_response() -> None:
    assert httpx2.Timeout(30.0, connect=5.0) == TIMEOUT
    assert ApiClient("http://server.test")._http.timeout == TIMEOUT


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_server_error_is_raised_without_a_retry(
    client: Both, api: Any, make_refusal: Callable[..., Any], status: int
) -> None:
    api.failures = [make_refusal(status, "t", "broken")]

    with pytest.raises(ServerError):
        await client.get_user()

    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [502, 504])
async def test_a_request_answered_by_a_proxys_error_page_is_sent_again_where_that_is_safe(
    client: Both, api: Any, status: int
) -> None:
    api.failures = [httpx2.Response(status, text="<h1>Bad Gateway</h1>")]
    await client.get_user()
    assert len(api.requests) == 2

    api.failures = [httpx2.Response(status, text="<h1>Bad Gateway</h1>")]
    with pytest.raises(ServerError):
        await client.cancel_training_job("01900001-0000-7000-8000-000000000000")
    assert len(api.requests) == 3


async def test_a_request_with_a_wrong_token_is_not_sent_again(client: Both, api: Any) -> None:
    api.failures = [httpx2.Response(401, json={"detail": "No"})]

    with pytest.raises(AuthenticationError):
        await client.get_user()

    assert len(api.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": 1}', b"null", b"\xff"])
async def test_parsing_errors_become_errors_of_the_client(
    client: Both, api: Any, body: bytes
) -> None:
    api.failures = [httpx2.Response(200, content=body)]

    with pytest.raises(ProtocolError):
        await client.get_training_job("01900001-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.RemoteProtocolError("bad"),
        httpx2.ProxyError("no"),
        httpx2.DecodingError("gzip"),
        httpx2.WriteError("dropped"),
        httpx2.UnsupportedProtocol("x"),
    ],
)
async def test_httpx2_exceptions_become_errors_of_the_client(
    client: Both, api: Any, failure: Exception
) -> None:
    api.failures = [failure] * 9

    with pytest.raises(ConnectionFailed):
        await client.get_user()


async def test_each_attempt_sends_the_complete_file_with_its_length(
    client: Both, api: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n' * 20_000)
    api.failures = [httpx2.WriteError("dropped")]

    await client.push_dataset("a", "1", file)

    assert api.datasets["a", "1"] == file.read_bytes()
    assert {each.headers["content-length"] for each in api.requests} == {"180000"}
    assert "transfer-encoding" not in api.requests[-1].headers


async def test_a_missing_file_is_an_error_of_the_client(client: Both, tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="cannot be read"):
        await client.push_dataset("a", "1", tmp_path / "gone.jsonl")


async def test_a_saved_file_is_complete_or_absent(client: Both, api: Any, tmp_path: Path) -> None:
    api.files = {"adapter/a": b"x" * 200_000}
    call = calls.training_job_file(
        Scope("main", "default"), "01900001-0000-7000-8000-000000000000", "adapter/a"
    )

    with pytest.raises(ProtocolError):
        await client.save(call, tmp_path / "deep" / "a", sha256="0" * 64)
    assert list((tmp_path / "deep").iterdir()) == []

    await client.save(call, tmp_path / "deep" / "a")
    assert (tmp_path / "deep" / "a").read_bytes() == api.files["adapter/a"]


async def test_waiting_continues_through_a_restart_of_the_server(
    client: Both,
    api: Any,
    make_job: Callable[..., dict[str, Any]],
    make_refusal: Callable[..., Any],
) -> None:
    api.jobs = [make_job(), make_job(status="running"), make_job(status="completed")]
    api.failures = [*[httpx2.ConnectError("refused")] * 20, make_refusal(502, "t", "no engine")]
    seen: list[str | None] = []

    job = await client.wait_for_training_job(
        "01900001-0000-7000-8000-000000000000",
        on_update=lambda job: seen.append(job and job.status),
    )

    assert job.status == "completed"
    assert seen[-3:] == ["queued", "running", "completed"]
    assert None in seen


async def test_waiting_ends_after_a_long_outage(client: Both, api: Any) -> None:
    api.failures = [httpx2.ConnectError("refused")] * 9

    with pytest.raises(ConnectionFailed):
        await client.wait_for_training_job("01900001-0000-7000-8000-000000000000", max_outage=0)


async def test_waiting_for_a_cancelled_job_raises_an_error_with_the_job(
    client: Both, api: Any, make_job: Callable[..., dict[str, Any]]
) -> None:
    api.jobs = [make_job(status="cancelled")]

    with pytest.raises(JobEnded) as caught:
        await client.wait_for_training_job("01900001-0000-7000-8000-000000000000")

    assert caught.value.job.status == "cancelled"


def test_the_wait_for_a_job_has_a_timeout_and_a_longest_outage(
    make_job: Callable[..., dict[str, Any]],
) -> None:
    now = 0.0
    wait = JobWait(timeout=10, max_outage=5, clock=lambda: now)
    job = TrainingJob.model_validate(make_job(status="running"))
    failure = ConnectionFailed("gone")

    assert not wait.is_over(job)
    now = 4.0
    wait.failed(failure)
    assert not wait.is_over(job)
    now = 9.5
    with pytest.raises(ConnectionFailed):
        wait.failed(failure)
    now = 10.0
    with pytest.raises(WaitTimedOut):
        wait.is_over(job)


def test_jitter_keeps_each_delay_between_half_and_all_of_it() -> None:
    call = calls.get("/user", bytes)
    failure = ConnectionFailed("x", unsent=True)

    shortest = Retries(jitter=lambda: 0.0).delay(call, 1, failure, 0)
    longest = Retries(jitter=lambda: 1.0).delay(call, 1, failure, 0)

    assert (shortest, longest) == (0.25, 0.5)
    assert Retries(limit=99, longest=30, jitter=lambda: 1.0).delay(call, 90, failure, 0) == 30


def test_both_clients_have_the_same_documented_methods() -> None:
    methods = {
        name: method
        for name, method in inspect.getmembers(ApiClient, inspect.isfunction)
        if not name.startswith("_") and name != "close"
    }

    assert len(methods) >= 40
    for name, method in methods.items():
        other = getattr(AsyncApiClient, name)
        assert inspect.iscoroutinefunction(other) or inspect.isasyncgenfunction(other), name
        assert not inspect.iscoroutinefunction(method)
        assert method.__doc__ == other.__doc__
        assert list(inspect.signature(method).parameters) == [*inspect.signature(other).parameters]


def test_a_call_without_an_organization_is_refused_before_it_is_sent(api: Any) -> None:
    client = ApiClient("http://server.test", "dn_test", transport=api.transport)

    with pytest.raises(ConfigError, match="organization"):
        client.list_training_jobs()

    assert api.requests == []


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_is_a_relative_path_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        calls.dataset_content(Scope("main"), name, "1")


@pytest.mark.parametrize("server", ["http://server.test/", "http://server.test/api/v1"])
def test_the_base_path_is_added_once(api: Any, server: str) -> None:
    ApiClient(server, "dn_test", transport=api.transport).get_user()

    assert str(api.requests[0].url) == "http://server.test/api/v1/user"


def test_a_token_with_a_line_break_is_refused_before_a_request_is_sent() -> None:
    with pytest.raises(ConfigError, match="token"):
        ApiClient("http://server.test", "dn_\nx")


async def test_a_client_closes_its_connections(api: Any) -> None:
    with ApiClient("http://server.test", "dn_test", transport=api.transport) as client:
        client.get_user()
    async with AsyncApiClient("http://server.test", "dn_test", transport=api.transport) as other:
        await asyncio.wait_for(other.get_user(), 10)

    with pytest.raises(RuntimeError):
        client.get_user()


@pytest.mark.parametrize("kind", [ApiClient, AsyncApiClient])
def test_help_names_every_argument_and_the_repr_is_short_and_without_the_token(kind: Any) -> None:
    client = kind("http://127.0.0.1:8799", "dn_secret", organization="main", workspace="lab")

    assert repr(client) == (
        f"{kind.__name__}('http://127.0.0.1:8799', organization='main', workspace='lab')"
    )
    for name, method in inspect.getmembers(kind, callable):
        if name.startswith("_"):
            continue
        assert inspect.getdoc(method), name
        variable = [p for p in inspect.signature(method).parameters.values() if p.kind in (2, 4)]
        # The settings of a job are those of its request, which are documented there.
        assert not variable or name in ("to", "train_sft", "train_rl", "evaluate"), name
