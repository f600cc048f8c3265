"""The typed client that is awaited; else as `dreadnode.http.client`.

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

from dreadnode.config import Scope
from dreadnode.errors import ConnectionFailed, DreadnodeError, ServerError, refusal
from dreadnode.http.calls import Call
from dreadnode.http.calls.jobs import get_training_job
from dreadnode.http.httpx_import import httpx
from dreadnode.http.methods import Methods
from dreadnode.http.retries import (
    RECONNECT,
    OnUpdate,
    Plan,
    Retries,
    Wait,
    persistently,
    until_ended,
)
from dreadnode.http.transport import (
    CHUNK,
    TIMEOUT,
    Listener,
    async_chunks,
    fresh,
    opened,
    read,
    request,
    translated,
)

if TYPE_CHECKING:
    from dreadnode.training.jobs import JobEvent, TrainingJob

P = ParamSpec("P")
T = TypeVar("T")


class AsyncApiClient(Methods):
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
        super().__init__(
            server,
            api_key,
            organization=organization,
            workspace=workspace,
            timeout=timeout,
            retries=retries,
        )
        self._sleep = sleep or asyncio.sleep
        self._http = httpx.AsyncClient(**self._http_options, transport=transport)

    @staticmethod
    def make_method(
        describe: Callable[Concatenate[Scope, P], Call[T]],
    ) -> Callable[Concatenate[AsyncApiClient, P], Coroutine[Any, Any, T]]:
        """Return the function that makes the described call and is awaited."""

        @functools.wraps(describe)
        async def method(self: AsyncApiClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await self.send(describe(self.scope, *args, **kwargs))

        return method

    async def send(self, call: Call[T]) -> T:
        """Make CALL, again if it failed in passing, and return what it gives."""
        return await self._carry_out(persistently(call, self._retries), self._exchange)

    async def save(self, call: Call[bytes], to: Path, *, sha256: str | None = None) -> None:
        """Make CALL and write what it gives to the file TO, which appears only once it is whole."""

        async def once(call: Call[bytes]) -> None:
            with fresh(to, sha256) as write:
                async with self._open(call) as response:
                    async for chunk in response.aiter_bytes(CHUNK):
                        write(chunk)

        await self._carry_out(persistently(call, self._retries), once)

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
        look = get_training_job(self.scope, job_id)
        wait = Wait(timeout=timeout, patience=patience)
        return await self._carry_out(until_ended(look, wait, interval, on_update), self.send)

    async def watch_training_job(
        self, job_id: str, *, after: int = 0, patience: float = 300.0
    ) -> AsyncIterator[JobEvent]:
        """Yield what happens to a job: see `ApiClient.watch_training_job`."""
        listener = Listener(self.scope, job_id, after, patience)
        while True:
            try:
                async with self._open(listener.call()) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    async for line in response.aiter_lines():
                        if told := listener.read(line, response):
                            yield told
            except (ConnectionFailed, ServerError) as failure:
                listener.missed(failure)
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

    async def _exchange(self, call: Call[T]) -> T:
        with translated(self._http, call):
            if call.form is not None:
                parts = call.form.async_chunks()
                response = await self._http.send(request(self._http, call, parts))
            elif call.file is None:
                response = await self._http.send(request(self._http, call, call.body))
            else:
                with opened(call.file) as file:
                    response = await self._http.send(request(self._http, call, async_chunks(file)))
        return read(call, response)

    async def _carry_out(self, plan: Plan[T], make: Callable[[Call[Any]], Awaitable[Any]]) -> T:
        """Do what PLAN asks for, each call by MAKE, and return what it comes to."""
        try:
            step = next(plan)
            while True:
                try:
                    told = await (make(step) if isinstance(step, Call) else self._sleep(step))
                except DreadnodeError as failure:
                    step = plan.throw(failure)
                else:
                    step = plan.send(told)
        except StopIteration as end:
            result: T = end.value
            return result

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
