"""The typed client that blocks; `dreadnode.async_client` is the one that is awaited.

    client = ApiClient("http://127.0.0.1:8799", "dn_...", organization="main", workspace="default")
    job = client.create_training_job(SftRequest(model="Qwen/Qwen3-8B", config=config))
    job = client.wait_for_training_job(job.id)

Both have the methods that `dreadnode.calls` describes, without the scope, which is theirs. They
differ only in how they send. The network comes in as `transport=`, so that a test needs none.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from dreadnode import calls
from dreadnode._httpx import httpx
from dreadnode.calls import Call
from dreadnode.config import Connection, Scope, resolve, server_url
from dreadnode.errors import ConnectionFailed, DreadnodeError, ServerError, refusal
from dreadnode.retries import RECONNECT, Retries, Silence, Wait
from dreadnode.transport import (
    CHUNK,
    TIMEOUT,
    Listener,
    chunks,
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

OnUpdate = Callable[["TrainingJob | None"], None]


def _blocking(
    describe: Callable[Concatenate[Scope, P], Call[T]],
) -> Callable[Concatenate[ApiClient, P], T]:
    """Turn the description of a call into a method that makes it."""

    @functools.wraps(describe)
    def method(self: ApiClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(describe(self.scope, *args, **kwargs))

    return method


class ApiClient:
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
        self.server = server_url(server)
        self.scope = Scope(organization, workspace)
        self._retries = retries or Retries()
        self._sleep = sleep or time.sleep
        self._http = httpx.Client(
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

    get_user = _blocking(calls.get_user)
    list_organizations = _blocking(calls.list_organizations)
    list_workspaces = _blocking(calls.list_workspaces)
    create_workspace = _blocking(calls.create_workspace)
    list_members = _blocking(calls.list_members)
    add_member = _blocking(calls.add_member)
    set_role = _blocking(calls.set_role)
    remove_member = _blocking(calls.remove_member)
    create_token = _blocking(calls.create_token)
    list_tokens = _blocking(calls.list_tokens)
    revoke_token = _blocking(calls.revoke_token)
    get_training_catalog = _blocking(calls.get_training_catalog)
    get_catalog_model = _blocking(calls.get_catalog_model)
    push_dataset = _blocking(calls.push_dataset)
    list_datasets = _blocking(calls.list_datasets)
    get_dataset = _blocking(calls.get_dataset)
    get_dataset_version = _blocking(calls.get_dataset_version)
    dataset_content = _blocking(calls.dataset_content)
    push_capability = _blocking(calls.push_capability)
    list_capabilities = _blocking(calls.list_capabilities)
    get_capability = _blocking(calls.get_capability)
    get_capability_version = _blocking(calls.get_capability_version)
    create_training_job = _blocking(calls.create_training_job)
    list_training_jobs = _blocking(calls.list_training_jobs)
    get_training_job = _blocking(calls.get_training_job)
    cancel_training_job = _blocking(calls.cancel_training_job)
    retry_training_job = _blocking(calls.retry_training_job)
    list_training_job_logs = _blocking(calls.list_training_job_logs)
    get_training_job_artifacts = _blocking(calls.get_training_job_artifacts)
    list_training_job_files = _blocking(calls.list_training_job_files)
    training_job_file = _blocking(calls.training_job_file)
    list_training_job_checkpoints = _blocking(calls.list_training_job_checkpoints)
    chat_with_training_job = _blocking(calls.chat_with_training_job)
    create_webhook = _blocking(calls.create_webhook)
    list_webhooks = _blocking(calls.list_webhooks)
    delete_webhook = _blocking(calls.delete_webhook)
    list_webhook_deliveries = _blocking(calls.list_webhook_deliveries)

    def send(self, call: Call[T]) -> T:
        """Make CALL, again if it failed in passing, and return what it gives.

        Raises:
            DreadnodeError: See `dreadnode.errors`.
        """
        return self._persist(call, lambda: read(call, self._exchange(call)))

    def stream(self, call: Call[bytes]) -> Iterator[bytes]:
        """Make CALL once and yield what it gives piece by piece, without keeping it in memory."""
        with self._open(call) as response:
            yield from response.iter_bytes(CHUNK)

    def save(self, call: Call[bytes], to: Path, *, sha256: str | None = None) -> None:
        """Make CALL and write what it gives to the file TO, which appears only once it is whole.

        Raises:
            ProtocolError: What came does not have the digest SHA256.
        """

        def once() -> None:
            with fresh(to, sha256) as write, self._open(call) as response:
                for chunk in response.iter_bytes(CHUNK):
                    write(chunk)

        self._persist(call, once)

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
        wait = Wait(timeout=timeout, patience=patience)
        while True:
            job = None
            try:
                job = self.get_training_job(job_id)
            except (ConnectionFailed, ServerError) as failure:
                wait.missed(failure)
            if on_update:
                on_update(job)
            if job and wait.seen(job):
                return job
            self._sleep(interval)

    def watch_training_job(
        self, job_id: str, *, after: int = 0, patience: float = 300.0
    ) -> Iterator[JobEvent]:
        """Yield what happens to a job until it has ended, through restarts of the server.

        Args:
            job_id: The job.
            after: Only what comes behind the event with this id.
            patience: How many seconds the server may be silent.
        """
        silence = Silence(patience)
        while True:
            call = calls.training_job_events(self.scope, job_id, after=after)
            try:
                with self._open(call) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    listener = Listener(call, response)
                    for line in response.iter_lines():
                        silence.broken()
                        if told := listener.read(line):
                            after = told.id
                            yield told
            except (ConnectionFailed, ServerError) as failure:
                silence.goes_on(failure)
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

    def _persist(self, call: Call[Any], once: Callable[[], T]) -> T:
        attempt = 0
        while True:
            try:
                return once()
            except DreadnodeError as failure:
                delay = self._retries.delay(call, attempt, failure)
                if delay is None:
                    raise
            self._sleep(delay)
            attempt += 1

    def _exchange(self, call: Call[Any]) -> httpx.Response:
        with translated(self._http, call):
            if call.form is not None:
                return self._http.send(request(self._http, call, call.form.chunks()))
            if call.file is None:
                return self._http.send(request(self._http, call, call.body))
            with opened(call.file) as file:
                return self._http.send(request(self._http, call, chunks(file)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
