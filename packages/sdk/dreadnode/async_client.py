"""The typed client that is awaited; else as `dreadnode.client`.

async with AsyncApiClient(server, key, organization="main", workspace="default") as client:
job = await client.create_training_job(SftRequest(model="Qwen/Qwen3-8B", config=config))
job = await client.wait_for_training_job(job.id)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from dreadnode import calls
from dreadnode._httpx import httpx
from dreadnode.calls import Call
from dreadnode.client import OnUpdate
from dreadnode.config import Connection, Scope, resolve, server_url
from dreadnode.errors import ConnectionFailed, DreadnodeError, ServerError, refusal
from dreadnode.retries import RECONNECT, Retries, Silence, Wait
from dreadnode.transport import (
    CHUNK,
    TIMEOUT,
    Listener,
    async_chunks,
    fresh,
    http_options,
    opened,
    read,
    request,
    translated,
)

if TYPE_CHECKING:
    from dreadnode.training.jobs import JobEvent, TrainingJob

P = ParamSpec("P")
T = TypeVar("T")


def _awaiting(
    describe: Callable[Concatenate[Scope, P], Call[T]],
) -> Callable[Concatenate[AsyncApiClient, P], Coroutine[Any, Any, T]]:
    """Turn the description of a call into a method that makes it and is awaited."""

    @functools.wraps(describe)
    async def method(self: AsyncApiClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(describe(self.scope, *args, **kwargs))

    return method


class AsyncApiClient:
    """A client that is awaited; else as `ApiClient`."""

    def __init__(
        self,
        server: str,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        workspace: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.server = server_url(server)
        self.scope = Scope(organization, workspace)
        self._retries = retries or Retries()
        self._sleep = sleep or asyncio.sleep
        self._http = httpx.AsyncClient(
            **http_options(self.server, api_key, timeout), transport=transport
        )

    @classmethod
    def from_config(cls, **flags: Any) -> Self:
        """Make a client from flags, environment and profile: see `dreadnode.config.resolve`."""
        return cls.to(resolve(**flags))

    @classmethod
    def to(cls, connection: Connection, **options: Any) -> Self:
        """Make a client for CONNECTION; OPTIONS are those of the constructor."""
        return cls(
            connection.server,
            connection.api_key,
            organization=connection.scope.organization,
            workspace=connection.scope.workspace,
            **options,
        )

    get_user = _awaiting(calls.get_user)
    list_organizations = _awaiting(calls.list_organizations)
    list_workspaces = _awaiting(calls.list_workspaces)
    create_workspace = _awaiting(calls.create_workspace)
    list_members = _awaiting(calls.list_members)
    add_member = _awaiting(calls.add_member)
    set_role = _awaiting(calls.set_role)
    remove_member = _awaiting(calls.remove_member)
    create_token = _awaiting(calls.create_token)
    list_tokens = _awaiting(calls.list_tokens)
    revoke_token = _awaiting(calls.revoke_token)
    get_training_catalog = _awaiting(calls.get_training_catalog)
    get_catalog_model = _awaiting(calls.get_catalog_model)
    push_dataset = _awaiting(calls.push_dataset)
    list_datasets = _awaiting(calls.list_datasets)
    get_dataset = _awaiting(calls.get_dataset)
    get_dataset_version = _awaiting(calls.get_dataset_version)
    dataset_content = _awaiting(calls.dataset_content)
    push_capability = _awaiting(calls.push_capability)
    list_capabilities = _awaiting(calls.list_capabilities)
    get_capability = _awaiting(calls.get_capability)
    get_capability_version = _awaiting(calls.get_capability_version)
    create_training_job = _awaiting(calls.create_training_job)
    list_training_jobs = _awaiting(calls.list_training_jobs)
    get_training_job = _awaiting(calls.get_training_job)
    cancel_training_job = _awaiting(calls.cancel_training_job)
    retry_training_job = _awaiting(calls.retry_training_job)
    list_training_job_logs = _awaiting(calls.list_training_job_logs)
    get_training_job_artifacts = _awaiting(calls.get_training_job_artifacts)
    list_training_job_files = _awaiting(calls.list_training_job_files)
    training_job_file = _awaiting(calls.training_job_file)
    list_training_job_checkpoints = _awaiting(calls.list_training_job_checkpoints)
    chat_with_training_job = _awaiting(calls.chat_with_training_job)
    create_webhook = _awaiting(calls.create_webhook)
    list_webhooks = _awaiting(calls.list_webhooks)
    delete_webhook = _awaiting(calls.delete_webhook)
    list_webhook_deliveries = _awaiting(calls.list_webhook_deliveries)

    async def send(self, call: Call[T]) -> T:
        """Make CALL, again if it failed in passing, and return what it gives."""

        async def once() -> T:
            return read(call, await self._exchange(call))

        return await self._persist(call, once)

    async def save(self, call: Call[bytes], to: Path, *, sha256: str | None = None) -> None:
        """Make CALL and write what it gives to the file TO, which appears only once it is whole."""

        async def once() -> None:
            with fresh(to, sha256) as write:
                async with self._open(call) as response:
                    async for chunk in response.aiter_bytes(CHUNK):
                        write(chunk)

        await self._persist(call, once)

    async def wait_for_training_job(
        self,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the job's time, and the job is told
        interval: float = 1.0,
        patience: float = 300.0,
        on_update: OnUpdate | None = None,
    ) -> TrainingJob:
        """Wait until a job has completed: see `ApiClient.wait_for_training_job`."""
        wait = Wait(timeout=timeout, patience=patience)
        while True:
            job = None
            try:
                job = await self.get_training_job(job_id)
            except (ConnectionFailed, ServerError) as failure:
                wait.missed(failure)
            if on_update:
                on_update(job)
            if job and wait.seen(job):
                return job
            await self._sleep(interval)

    async def watch_training_job(
        self, job_id: str, *, after: int = 0, patience: float = 300.0
    ) -> AsyncIterator[JobEvent]:
        """Yield what happens to a job: see `ApiClient.watch_training_job`."""
        silence = Silence(patience)
        while True:
            call = calls.training_job_events(self.scope, job_id, after=after)
            try:
                async with self._open(call) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    listener = Listener(call, response)
                    async for line in response.aiter_lines():
                        silence.broken()
                        if told := listener.read(line):
                            after = told.id
                            yield told
            except (ConnectionFailed, ServerError) as failure:
                silence.goes_on(failure)
            await self._sleep(RECONNECT)

    @asynccontextmanager
    async def _open(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """Make CALL and yield its answer, whose body is still to be read."""
        with translated(self._http, call):
            response = await self._http.send(request(self._http, call, None), stream=True)
            try:
                if not response.is_success:
                    body = await response.aread()
                    raise refusal(response.status_code, response.headers, body)
                yield response
            finally:
                await response.aclose()

    async def _persist(self, call: Call[Any], once: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                return await once()
            except DreadnodeError as failure:
                delay = self._retries.delay(call, attempt, failure)
                if delay is None:
                    raise
            await self._sleep(delay)
            attempt += 1

    async def _exchange(self, call: Call[Any]) -> httpx.Response:
        with translated(self._http, call):
            if call.form is not None:
                body = call.form.async_chunks()
                return await self._http.send(request(self._http, call, body))
            if call.file is None:
                return await self._http.send(request(self._http, call, call.body))
            with opened(call.file) as file:
                return await self._http.send(request(self._http, call, async_chunks(file)))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
