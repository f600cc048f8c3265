"""The API, as a job sees it: its own record, its datasets, and a place for its files."""

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

from dreadnode_runtime.errors import JobFailed, NoLongerOurs, TryAgain, plain
from dreadnode_runtime.jobs.config import DatasetRef

PATIENCE = 15 * 60.0
"""Seconds for which the API may be away before a job gives up."""
SECRETS = (
    *("DREADNODE_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
_LONGEST_PAUSE = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a sandbox is given, and nothing else."""

    server: str
    api_key: str = field(repr=False)
    organization: str
    workspace: str
    job_id: str
    attempt: int

    @classmethod
    def from_environment(cls, job_id: str, environment: Mapping[str, str]) -> "Settings":
        """Read the variables that the runner sets.

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
    """The rows of a dataset's split, fetched."""

    name: str
    path: Path
    sha256: str
    split: str | None = None


class Service:
    """Makes the few calls that a job makes; each is repeated while the API is away.

    Args:
        http: Speaks to the server; `base_url` ends in `/api/v1`.
        settings: What the sandbox was given.
        patience: Seconds for which the API may be away.
    """

    def __init__(
        self, http: httpx.AsyncClient, settings: Settings, *, patience: float = PATIENCE
    ) -> None:
        self._http = http
        self._patience = patience
        self._org = f"/org/{settings.organization}"
        self._job = f"{self._org}/ws/{settings.workspace}/training/jobs/{settings.job_id}"

    async def job(self) -> dict[str, Any]:
        """Return the job."""
        return _object(await self._call("GET", self._job))

    async def progress(self, event: dict[str, Any]) -> dict[str, Any]:
        """Tell EVENT, and return the job as it is then."""
        return _object(await self._call("POST", f"{self._job}/progress", json=event))

    async def dataset(self, ref: DatasetRef, folder: Path, split: str | None = None) -> Dataset:
        """Fetch the rows of a dataset's split into FOLDER, and check them against their digest.

        Raises:
            JobFailed: There is no such dataset, or no such split.
            TryAgain: What arrived is not what the server holds.
        """
        base = f"{self._org}/datasets/{quote(ref.name)}/{quote(ref.version)}"
        content = f"{base}/content" + (f"?split={quote(split)}" if split else "")
        path = folder / (f"{ref}.{split}.jsonl" if split else f"{ref}.jsonl")
        try:
            facts = _object(await self._call("GET", base))
            digest = await self._retried(lambda: self._download(content, path))
        except NoLongerOurs as error:
            raise JobFailed(f"The dataset {ref} cannot be read: {error}", code="data") from error
        if digest not in _digests(facts, split):
            raise TryAgain(f"The dataset {ref} arrived damaged")
        return Dataset(str(ref), path, digest, split)

    async def upload(self, path: str, file: Path) -> None:
        """Store FILE with the job, as PATH."""

        async def send() -> httpx.Response:
            return await self._http.put(
                f"{self._job}/files/{quote(path)}", content=_chunks(file), timeout=300
            )

        await self._retried(lambda: self._answered(send))

    async def _call(self, method: str, path: str, json: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            return await self._http.request(method, path, json=json)

        return await self._retried(lambda: self._answered(send))

    async def _answered(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
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

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat ATTEMPT, ever more slowly, while the API is away."""
        gone_at: float | None = None
        pause = 0.25
        while True:
            try:
                return await attempt()
            except (httpx.TransportError, _AwayError) as error:
                now = time.monotonic()
                gone_at = now if gone_at is None else gone_at
                if now - gone_at >= self._patience:
                    raise TryAgain(
                        f"The API was away for {self._patience:.0f} s ({plain(error)})"
                    ) from error
            # Some disorder, so that the sandboxes of one server do not all come back at once.
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[Service]:
    """Open a connection to the API."""
    server = settings.server.rstrip("/").removesuffix("/api/v1")
    async with httpx.AsyncClient(
        base_url=f"{server}/api/v1",
        headers={"Authorization": f"Bearer {settings.api_key}"},
        timeout=30,
    ) as http:
        yield Service(http, settings)


class _AwayError(Exception):
    """The API answered, but not as one that works."""


def _check(response: httpx.Response) -> None:
    """Sort a refusal: for a while, or for good."""
    status = response.status_code
    if status < 400:
        return
    if status in (408, 429) or status >= 500:
        raise _AwayError(f"it answered {status}")
    if status in (401, 403, 404, 409, 410):
        raise NoLongerOurs(f"The API no longer takes this attempt's word: it answered {status}")
    raise JobFailed(
        f"The API refuses {response.request.method} {response.request.url.path} with {status}",
        code="api_refused",
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError as error:
        raise TryAgain("The API answered something that is not JSON") from error
    if not isinstance(value, dict):
        raise TryAgain("The API answered something that is not an object")
    return value


def _digests(facts: dict[str, Any], split: str | None) -> set[str]:
    """Return the digests that the rows may have: SPLIT's, or any split's if the API chooses."""
    return {each["content_sha256"] for each in facts["splits"] if split in (None, each["name"])}


async def _chunks(file: Path, size: int = 1 << 20) -> AsyncIterator[bytes]:
    with file.open("rb") as data:
        # Reading a local file blocks for less time than handing it to a thread would take.
        while chunk := data.read(size):
            yield chunk


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return TEXT without any of the sandbox's keys."""
    for name in SECRETS:
        if secret := environment.get(name):
            text = text.replace(secret, "***")
    return text
