"""The typed client that blocks; `dreadnode.http.async_client` is the one that is awaited.

    client = ApiClient("http://127.0.0.1:8799", "dn_...", organization="main", workspace="default")
    job = client.create_training_job(SftRequest(model="Qwen/Qwen3-8B", config=config))
    job = client.wait_for_training_job(job.id)

Both have the methods of `dreadnode.http.methods`, and differ only in how they send. The network
comes in as `transport=`, so that a test needs none.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    chunks,
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


class ApiClient(Methods):
    """A client that blocks until the answer is there.

    Args:
        server: The server's address, for instance `http://127.0.0.1:8799`.
        api_key: A token of that server.
        organization: The organization that scoped calls are about.
        workspace: The workspace that scoped calls are about.
        timeout: How long to wait for the server; 5 s to connect and 30 s to answer by default.
        retries: How failed calls are made again.
        transport: What carries requests, in place of the network.
        sleep: How to pass the time between attempts.
    """

    def __init__(
        self,
        server: str,
        api_key: str | None = None,
        *,
        organization: str | None = None,
        workspace: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(
            server,
            api_key,
            organization=organization,
            workspace=workspace,
            timeout=timeout,
            retries=retries,
        )
        self._sleep = sleep or time.sleep
        self._http = httpx.Client(**self._http_options, transport=transport)

    @staticmethod
    def make_method(
        describe: Callable[Concatenate[Scope, P], Call[T]],
    ) -> Callable[Concatenate[ApiClient, P], T]:
        """Return the function that blocks until the answer to the described call is there."""

        @functools.wraps(describe)
        def method(self: ApiClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return self.send(describe(self.scope, *args, **kwargs))

        return method

    def send(self, call: Call[T]) -> T:
        """Make CALL, again if it failed in passing, and return what it gives.

        Raises:
            DreadnodeError: See `dreadnode.errors`.
        """
        return self._carry_out(persistently(call, self._retries), self._exchange)

    def stream(self, call: Call[bytes]) -> Iterator[bytes]:
        """Make CALL once and yield what it gives piece by piece, without keeping it in memory."""
        with self._open(call) as response:
            yield from response.iter_bytes(CHUNK)

    def save(self, call: Call[bytes], to: Path, *, sha256: str | None = None) -> None:
        """Make CALL and write what it gives to the file TO, which appears only once it is whole.

        Raises:
            ProtocolError: What came does not have the digest SHA256.
        """

        def once(call: Call[bytes]) -> None:
            with fresh(to, sha256) as write, self._open(call) as response:
                for chunk in response.iter_bytes(CHUNK):
                    write(chunk)

        self._carry_out(persistently(call, self._retries), once)

    def wait_for_training_job(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        interval: float = 1.0,
        patience: float = 300.0,
        on_update: OnUpdate | None = None,
    ) -> TrainingJob:
        """Wait until a job has completed, through restarts of the server, and return it.

        Args:
            job_id: The job.
            timeout: The longest time to wait in seconds; None waits for ever.
            interval: Seconds between two looks.
            patience: How many seconds the server may be silent.
            on_update: Called with the job after each look, and with None when no answer came.

        Raises:
            JobEnded: It failed or was cancelled.
            WaitTimedOut: It goes on, and the time is up.
        """
        look = get_training_job(self.scope, job_id)
        wait = Wait(timeout=timeout, patience=patience)
        return self._carry_out(until_ended(look, wait, interval, on_update), self.send)

    def watch_training_job(
        self, job_id: str, *, after: int = 0, patience: float = 300.0
    ) -> Iterator[JobEvent]:
        """Yield what happens to a job until it has ended, through restarts of the server.

        Args:
            job_id: The job.
            after: Only what comes behind the event with this id.
            patience: How many seconds the server may be silent.
        """
        listener = Listener(self.scope, job_id, after, patience)
        while True:
            try:
                with self._open(listener.call()) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    for line in response.iter_lines():
                        if told := listener.read(line, response):
                            yield told
            except (ConnectionFailed, ServerError) as failure:
                listener.missed(failure)
            self._sleep(RECONNECT)

    @contextmanager
    def _open(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """Make CALL and yield its answer, whose body is still to be read."""
        with translated(self._http, call):
            response = self._http.send(request(self._http, call, None), stream=True)
            try:
                if not response.is_success:
                    body = response.read()
                    raise refusal(response.status_code, response.headers, body)
                yield response
            finally:
                response.close()

    def _exchange(self, call: Call[T]) -> T:
        with translated(self._http, call):
            if call.form is not None:
                response = self._http.send(request(self._http, call, call.form.chunks()))
            elif call.file is None:
                response = self._http.send(request(self._http, call, call.body))
            else:
                with opened(call.file) as file:
                    response = self._http.send(request(self._http, call, chunks(file)))
        return read(call, response)

    def _carry_out(self, plan: Plan[T], make: Callable[[Call[Any]], Any]) -> T:
        """Do what PLAN asks for, each call by MAKE, and return what it comes to."""
        try:
            step = next(plan)
            while True:
                try:
                    told = make(step) if isinstance(step, Call) else self._sleep(step)
                except DreadnodeError as failure:
                    step = plan.throw(failure)
                else:
                    step = plan.send(told)
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
