"""The API as a job uses it: its record, its datasets, and its files."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from dreadnode_runtime.errors import AttemptRejected, JobFailed, TryAgain, plain

MAX_OUTAGE = 15 * 60.0
"""Seconds that the API may be unreachable before the attempt ends."""
SECRET_VARIABLES = (
    *("DREADNODE_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
_MAX_WAIT = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The settings that the runner passes to a sandbox."""

    server: str
    api_key: str = field(repr=False)
    organization: str
    workspace: str
    job_id: str
    attempt: int

    @classmethod
    def from_environment(cls, job_id: str, environment: Mapping[str, str]) -> "Settings":
        """Read the environment variables that the runner sets.

        Raises:
            KeyError: One is missing; its name is the error's text.
        """
        return cls(
            server=environment["DREADNODE_SERVER"],
            api_key=environment["DREADNODE_API_KEY"],
            organization=environment["DREADNODE_ORGANIZATION"],
            workspace=environment["DREADNODE_WORKSPACE"],
            job_id=job_id,
            attempt=int(environment.get("DREADNODE_JOB_ATTEMPT", "1")),
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """The downloaded rows of one split of a dataset."""

    name: str
    path: Path
    sha256: str
    split: str | None = None


class JobApi:
    """The calls that a job makes; each is retried while the API is unreachable.

    Args:
        http: HTTP client; its `base_url` ends in `/api/v1`.
        settings: The settings of the sandbox.
        max_outage: Seconds that the API may be unreachable.
    """

    def __init__(
        self, http: httpx.AsyncClient, settings: Settings, *, max_outage: float = MAX_OUTAGE
    ) -> None:
        self._http = http
        self._max_outage = max_outage
        self._org = f"/org/{settings.organization}"
        self._job = f"{self._org}/ws/{settings.workspace}/training/jobs/{settings.job_id}"

    async def job(self) -> dict[str, Any]:
        """Return the job."""
        return _object(await self._call("GET", self._job))

    async def progress(self, event: dict[str, Any]) -> dict[str, Any]:
        """Report EVENT, and return the job's current record."""
        return _object(await self._call("POST", f"{self._job}/progress", json=event))

    async def dataset(
        self, name: str, version: str, folder: Path, split: str | None = None
    ) -> Dataset:
        """Download the rows of a dataset's split into FOLDER, and verify their digest.

        Raises:
            JobFailed: The dataset or the split does not exist.
            TryAgain: The download is damaged.
        """
        base = f"{self._org}/datasets/{quote(name)}/{quote(version)}"
        ref = f"{name}@{version}"
        content = f"{base}/content" + (f"?split={quote(split)}" if split else "")
        path = folder / (f"{ref}.{split}.jsonl" if split else f"{ref}.jsonl")
        try:
            record = _object(await self._call("GET", base))
            digest = await self._with_retries(lambda: self._download(content, path))
        except AttemptRejected as error:
            raise JobFailed(f"The dataset {ref} cannot be read: {error}", code="data") from error
        if digest not in _digests(record, split):
            raise TryAgain(f"The dataset {ref} arrived damaged")
        return Dataset(ref, path, digest, split)

    async def upload(self, path: str, file: Path) -> None:
        """Store FILE with the job, as PATH."""

        async def send() -> httpx.Response:
            return await self._http.put(
                f"{self._job}/files/{quote(path)}", content=_chunks(file), timeout=300
            )

        await self._with_retries(lambda: self._checked(send))

    async def _call(self, method: str, path: str, json: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            return await self._http.request(method, path, json=json)

        return await self._with_retries(lambda: self._checked(send))

    async def _checked(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        response = await send()
        _check(response)
        return response

    async def _download(self, path: str, to: Path) -> str:
        digest = hashlib.sha256()
        async with self._http.stream("GET", path) as response:
            _check(response)
            with to.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    async def _with_retries(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Retry ATTEMPT, with longer and longer waits, while the API is unreachable."""
        outage_start: float | None = None
        wait = 0.25
        while True:
            try:
                return await attempt()
            except (httpx.TransportError, _UnavailableError) as error:
                now = time.monotonic()
                outage_start = now if outage_start is None else outage_start
                if now - outage_start >= self._max_outage:
                    raise TryAgain(
                        f"The API was unreachable for {self._max_outage:.0f} s ({plain(error)})"
                    ) from error
            # Jitter, so that the sandboxes of one server do not all retry at the same moment.
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311
            wait = min(2 * wait, _MAX_WAIT)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[JobApi]:
    """Open a connection to the API."""
    server = settings.server.rstrip("/").removesuffix("/api/v1")
    async with httpx.AsyncClient(
        base_url=f"{server}/api/v1",
        headers={"Authorization": f"Bearer {settings.api_key}"},
        timeout=30,
    ) as http:
        yield JobApi(http, settings)


class _UnavailableError(Exception):
    """The API responded with a status that a retry may change."""


def _check(response: httpx.Response) -> None:
    """Raise if RESPONSE is an error: `_UnavailableError` if a retry may help."""
    status = response.status_code
    if status < 400:
        return
    if status in (408, 429) or status >= 500:
        raise _UnavailableError(f"it responded with {status}")
    if status in (401, 403, 404, 409, 410):
        raise AttemptRejected(f"The API rejected this attempt's token ({status})")
    raise JobFailed(
        f"The API refused {response.request.method} {response.request.url.path} with "
        f"{status}; see the server's log",
        code="api_refused",
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError as error:
        raise TryAgain("The API's response is not JSON") from error
    if not isinstance(value, dict):
        raise TryAgain("The API's response is not a JSON object")
    return value


def _digests(record: dict[str, Any], split: str | None) -> set[str]:
    """Return the valid digests: of SPLIT, or of every split if the API chooses one."""
    return {each["content_sha256"] for each in record["splits"] if split in (None, each["name"])}


async def _chunks(file: Path, size: int = 1 << 20) -> AsyncIterator[bytes]:
    with file.open("rb") as data:
        # Reading a local file blocks for less time than a switch to a thread takes.
        while chunk := data.read(size):
            yield chunk


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return TEXT with the sandbox's secrets replaced by `***`."""
    for name in SECRET_VARIABLES:
        if secret := environment.get(name):
            text = text.replace(secret, "***")
    return text
