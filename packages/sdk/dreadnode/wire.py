"""What crosses the wire: datasets and identities here, training jobs in `dreadnode.training.jobs`.

A request is strict: a misspelt field is an error, not a default. An answer is patient: a field that
this version does not know is passed over, so that an old client keeps working. A type is built when
it is first used, since a command uses few of them.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Response(BaseModel):
    """What the API answers."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class DatasetRef(Request):
    """A dataset, named exactly: there is no latest version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class CapabilityRef(Request):
    """A capability, named exactly."""

    name: str
    version: str


class Dataset(Response):
    """One version of a dataset; its bytes never change."""

    name: str
    version: str
    rows: int
    bytes: int
    sha256: str
    format: str = "jsonl"
    created_at: datetime
    created_by: str | None = None

    @property
    def ref(self) -> DatasetRef:
        """How a job names it."""
        return DatasetRef(name=self.name, version=self.version)


class DatasetPage(Response):
    """One page of datasets."""

    items: list[Dataset]
    total: int
    page: int = 1
    page_size: int = 20


class DatasetVersions(Response):
    """A dataset with all its versions, newest first."""

    name: str
    versions: list[Dataset]


class Capability(Response):
    """One version of a capability; it never changes.

    Attributes:
        prompt: The system prompt; None in a list, and where a pushed archive holds none.
        entry_agent: The agent whose prompt it is, if it came as an archive.
        artifact_sha256: The digest of what was pushed.
    """

    name: str
    version: str
    description: str | None = None
    prompt: str | None = None
    entry_agent: str | None = None
    artifact_sha256: str
    created_at: datetime
    created_by: str | None = None


class CapabilityPage(Response):
    """One page of capabilities, each by its newest version."""

    capabilities: list[Capability]
    total: int
    page: int = 1
    limit: int = 20


class CapabilityRequest(Request):
    """A capability to be stored."""

    prompt: str
    description: str | None = None


class User(Response):
    """Whom a key stands for."""

    id: str
    username: str
    email_address: str


class Organization(Response):
    """An organization that a key may see."""

    id: str
    key: str
    name: str


class Workspace(Response):
    """A workspace of an organization."""

    id: str
    key: str
    name: str
    is_default: bool = False
