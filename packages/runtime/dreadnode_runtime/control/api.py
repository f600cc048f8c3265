"""The API as a job uses it: its record, its datasets, and its files."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from dreadnode.errors import ApiError, ConnectionFailed, DreadnodeError
from dreadnode.http.async_api.client import AsyncApiClient
from dreadnode.http.calls import Call
from dreadnode.http.retries import Retries
from httpx2 import AsyncBaseTransport

from dreadnode_runtime.errors import AttemptRejected, JobFailed, RuntimeFault, TryAgain, plain

MAX_OUTAGE = 15 * 60.0
"""Seconds that the API may be unreachable before the attempt ends."""
UPLOAD_SECONDS = 300.0
SECRET_VARIABLES = (
    *("DREADNODE_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY"),
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
MODEL_KEY = "TINKER_API_KEY_"
"""The start of the variables with an evaluation's keys: one for each model, by its number."""
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


@dataclass(frozen=True)
class OutageRetries(Retries):
    """Sends a call again while the API is unreachable, for a time instead of a number of attempts.

    All calls of a job can be sent again: the API recognizes an event by its attempt and number.

    Attributes:
        max_outage: Seconds that the API may be unreachable.
    """

    max_outage: float = MAX_OUTAGE

    def delay(
        self, call: Call[Any], attempt: int, failure: DreadnodeError, elapsed: float
    ) -> float | None:
        """Return the seconds to wait before CALL is sent again, or None to give up."""
        if not _is_outage(failure) or elapsed >= self.max_outage:
            return None
        # Jitter, so that the sandboxes of one server do not all retry at the same moment.
        wait = min(self.first * 2.0 ** min(attempt, 32), self.longest)
        return wait * (0.75 + self.jitter() / 2)


class JobApi:
    """The calls that a job makes; each is retried while the API is unreachable.

    Args:
        client: A client of the API, with the retries of `OutageRetries`.
        settings: The settings of the sandbox.
        max_outage: Seconds that the API may be unreachable.
    """

    def __init__(self, client: AsyncApiClient, settings: Settings, max_outage: float) -> None:
        self._client = client
        self._max_outage = max_outage
        self._org = f"/org/{quote(settings.organization, safe='')}"
        workspace = f"{self._org}/ws/{quote(settings.workspace, safe='')}"
        self._job = f"{workspace}/training/jobs/{quote(settings.job_id, safe='')}"

    async def job(self) -> dict[str, Any]:
        """Return the job."""
        return await self._send(Call("GET", self._job, _object))

    async def progress(self, event: dict[str, Any]) -> dict[str, Any]:
        """Report EVENT, and return the job's current record."""
        body = json.dumps(event).encode()
        return await self._send(Call("POST", f"{self._job}/progress", _object, body=body))

    async def dataset(
        self, name: str, version: str, folder: Path, split: str | None = None
    ) -> Dataset:
        """Download the rows of a dataset's split into FOLDER, and verify their digest.

        Raises:
            JobFailed: The dataset or the split does not exist.
            TryAgain: The download is damaged.
        """
        base = f"{self._org}/datasets/{quote(name, safe='')}/{quote(version, safe='')}"
        ref = f"{name}@{version}"
        path = folder / (f"{ref}.{split}.jsonl" if split else f"{ref}.jsonl")
        params = {"split": split} if split else {}
        try:
            record = await self._send(Call("GET", base, _object))
            content = Call("GET", f"{base}/content", bytes, params=params)
            await self._translated(self._client.save(content, path))
        except AttemptRejected as error:
            raise JobFailed(f"The dataset {ref} cannot be read: {error}", code="data") from error
        digest = await asyncio.to_thread(_sha256, path)
        if digest not in _digests(record, split):
            raise TryAgain(f"The dataset {ref} arrived damaged")
        return Dataset(ref, path, digest, split)

    async def upload(self, path: str, file: Path) -> None:
        """Store FILE with the job, as PATH."""
        await self._send(
            Call(
                "PUT",
                f"{self._job}/files/{quote(path)}",
                bytes,
                file=file,
                content_type="application/octet-stream",
                seconds=UPLOAD_SECONDS,
            )
        )

    async def files(self, folder: str) -> list[str]:
        """Return the paths of the job's files in FOLDER, in order."""
        found = await self._send(Call("GET", f"{self._job}/files", _object))
        return sorted(each["path"] for each in found["items"] if each["path"].startswith(folder))

    async def file(self, path: str) -> bytes:
        """Return the content of one of the job's files."""
        return await self._send(
            Call("GET", f"{self._job}/files/{quote(path)}", bytes, seconds=UPLOAD_SECONDS)
        )

    async def _send(self, call: Call[T]) -> T:
        return await self._translated(self._client.send(call))

    async def _translated(self, work: Awaitable[T]) -> T:
        """Await WORK, and raise the SDK's errors as this package's own."""
        try:
            return await work
        except DreadnodeError as error:
            raise self._fault(error) from error

    def _fault(self, error: DreadnodeError) -> RuntimeFault:
        if _is_outage(error):
            reason = plain(error)
            if isinstance(error, ApiError):
                reason = f"it responded with {error.status}"
            return TryAgain(f"The API was unreachable for {self._max_outage:.0f} s ({reason})")
        if not isinstance(error, ApiError):
            return TryAgain(plain(error))
        if error.status in (401, 403, 404, 409, 410):
            return AttemptRejected(f"The API rejected this attempt's token ({error.status})")
        return JobFailed(
            f"The API refused a request with {error.status}: {plain(error)}", code="api_refused"
        )


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    max_outage: float = MAX_OUTAGE,
    transport: AsyncBaseTransport | None = None,
) -> AsyncIterator[JobApi]:
    """Open a connection to the API, through TRANSPORT instead of the network if it is given."""
    async with AsyncApiClient(
        settings.server,
        settings.api_key,
        retries=OutageRetries(max_outage=max_outage),
        transport=transport,
    ) as client:
        yield JobApi(client, settings, max_outage)


def _is_outage(failure: DreadnodeError) -> bool:
    """Whether a later attempt may get another response."""
    if isinstance(failure, ApiError):
        return failure.status in (408, 429) or failure.status >= 500
    return isinstance(failure, ConnectionFailed)


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(record: dict[str, Any], split: str | None) -> set[str]:
    """Return the valid digests: of SPLIT, or of every split if the API chooses one."""
    return {each["content_sha256"] for each in record["splits"] if split in (None, each["name"])}


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return TEXT with the sandbox's secrets replaced by `***`."""
    for name, secret in environment.items():
        if secret and (name in SECRET_VARIABLES or name.startswith(MODEL_KEY)):
            text = text.replace(secret, "***")
    return text
