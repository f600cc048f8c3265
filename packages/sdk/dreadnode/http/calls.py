"""The description of one call to the API, and the paths that calls are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

from dreadnode.config import Scope
from dreadnode.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T")
Model = TypeVar("Model", bound="BaseModel")
Param = str | int | float | bool


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its response.

    Attributes:
        method: The HTTP method.
        path: The path below `/api/v1`.
        parse: Reads the body of a 2xx response.
        params: The query parameters.
        body: The body, if it is short.
        file: The body, if it is a file. Each attempt opens it again.
        files: The files of a form: the path of each field, and the file name to send.
        content_type: The media type of the body.
        headers: Further headers.
        seconds: How long the response may take, if longer than the client's default.
        repeatable: Whether the call is safe to send again after a lost response: it only reads, or
            the server recognizes the second request.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: Mapping[str, Param] = field(default_factory=dict)
    body: bytes | None = None
    file: Path | None = None
    files: Mapping[str, tuple[Path, str]] | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    seconds: float | None = None


def organization(scope: Scope) -> str:
    """Return the path of the organization in SCOPE.

    Raises:
        ConfigError: SCOPE has no organization.
    """
    if not scope.organization:
        raise ConfigError(
            "no organization is set; use `--organization`, DREADNODE_ORGANIZATION or `dn login`"
        )
    return f"/org/{segment(scope.organization)}"


def workspace(scope: Scope) -> str:
    """Return the path of the workspace in SCOPE.

    Raises:
        ConfigError: SCOPE has no organization or no workspace.
    """
    parent = organization(scope)
    if not scope.workspace:
        raise ConfigError(
            "no workspace is set; use `--workspace`, DREADNODE_WORKSPACE or `dn login`"
        )
    return f"{parent}/ws/{segment(scope.workspace)}"


def training_job(scope: Scope, job_id: str) -> str:
    """Return the path of a training job."""
    return f"{workspace(scope)}/training/jobs/{segment(job_id)}"


def segment(value: str) -> str:
    """Quote VALUE so that it is exactly one segment of a path.

    Raises:
        InputError: VALUE is empty or a relative path.
    """
    # Servers resolve these three as steps through the path, even when they are quoted.
    if value in ("", ".", ".."):
        raise InputError(f"`{value}` is not a valid name or id")
    return quote(value, safe="")


def get(
    path: str, parse: Callable[[bytes], T], params: Mapping[str, Param] | None = None
) -> Call[T]:
    """Describe a call that only reads."""
    return Call("GET", path, parse, params or {}, repeatable=True)


def drop_none(**params: Param | None) -> dict[str, Param]:
    """Return the parameters that have a value."""
    return {name: value for name, value in params.items() if value is not None}


def body_of(request: BaseModel) -> bytes:
    """Return REQUEST as JSON, without unset fields."""
    return request.model_dump_json(exclude_none=True).encode()


def list_of(model: type[Model]) -> Callable[[bytes], list[Model]]:
    """Return the parser of a JSON array of MODEL."""

    def parse(body: bytes) -> list[Model]:
        return [model.model_validate(item) for item in json.loads(body)]

    return parse


def dataset_content(
    scope: Scope, name: str, version: str, *, split: str | None = None
) -> Call[bytes]:
    """Describe a download of the rows of a dataset as JSONL.

    Args:
        scope: The organization.
        name: The dataset.
        version: Its version.
        split: The split; the only one, or `train`, if None.
    """
    path = f"{organization(scope)}/datasets/{segment(name)}/{segment(version)}/content"
    return get(path, bytes, drop_none(split=split))


def capability_archive(scope: Scope, name: str, version: str) -> Call[bytes]:
    """Describe a download of the files of a capability, as a gzipped tar."""
    path = f"{organization(scope)}/capabilities/{segment(name)}/{segment(version)}/archive"
    return get(path, bytes)


def training_job_file(scope: Scope, job_id: str, path: str) -> Call[bytes]:
    """Describe a download of one file of a job."""
    return get(f"{training_job(scope, job_id)}/files/{quote(path)}", bytes)


def training_job_events(scope: Scope, job_id: str, *, after: int = 0) -> Call[bytes]:
    """Describe the stream of a job's events after the event with the id AFTER."""
    return Call(
        "GET",
        f"{training_job(scope, job_id)}/events",
        bytes,
        params={"after": after},
        headers={"Accept": "text/event-stream"},
        repeatable=True,
    )
