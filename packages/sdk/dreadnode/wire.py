"""Requests and responses about datasets, capabilities, users, tokens and members.

Those about training jobs are in `dreadnode.training.jobs`. A request refuses unknown fields, so a
misspelt one is an error. A response ignores them, so an old client works with a newer server. Each
type is built at its first use, because a command uses few of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class Response(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class DatasetRef(Request):
    """A dataset with its exact version; there is no `latest`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class CapabilityRef(Request):
    """A capability with its exact version."""

    name: str
    version: str


class Split(Response):
    """One file of a dataset: as it was pushed, and as JSONL, which jobs read."""

    name: str
    format: str
    rows: int
    bytes: int
    sha256: str
    content_bytes: int
    content_sha256: str


class Dataset(Response):
    """One version of a dataset, which never changes.

    Attributes:
        notes: What jobs will not read of its rows; only in the response to a push.
    """

    name: str
    version: str
    rows: int
    bytes: int
    sha256: str
    format: str = "jsonl"
    splits: list[Split] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    created_at: datetime
    created_by: str | None = None

    @property
    def ref(self) -> DatasetRef:
        """The reference for jobs."""
        return DatasetRef(name=self.name, version=self.version)

    def __repr__(self) -> str:
        return f"<Dataset {self.ref}: {self.rows:,} rows, {self.bytes:,} bytes>"


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
    """One version of a capability, which never changes.

    Attributes:
        prompt: The system prompt; None in a list, and for an archive without a prompt.
        entry_agent: The agent with that prompt, if it was pushed as an archive.
        artifact_sha256: The digest of the pushed content.
    """

    name: str
    version: str
    description: str | None = None
    prompt: str | None = None
    entry_agent: str | None = None
    artifact_sha256: str
    created_at: datetime
    created_by: str | None = None

    def __repr__(self) -> str:
        return f"<Capability {self.name}@{self.version}>"


class CapabilityPage(Response):
    """One page of capabilities, each with its newest version."""

    capabilities: list[Capability]
    total: int
    page: int = 1
    limit: int = 20


class CapabilityRequest(Request):
    """A request to store a capability."""

    prompt: str
    description: str | None = None


class User(Response):
    """The owner of a token."""

    id: str
    username: str
    email_address: str


class TokenRequest(Request):
    """A request to create a token.

    Attributes:
        name: A name that says its purpose.
        username: Its owner; the caller if None. Only an admin can name another user.
        role: At most the owner's, which is the default.
        expires_in_days: Days until it expires; None is valid until revoked.
    """

    name: str
    username: str | None = None
    role: Literal["reader", "member", "admin"] | None = None
    expires_in_days: Annotated[float, Field(gt=0)] | None = None


class Token(Response):
    """A token without its secret; `hint` is the start of it."""

    id: str
    name: str
    role: str
    hint: str = ""
    username: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewToken(Token):
    """A new token with its secret, which no later response contains."""

    token: str = Field(repr=False)


class TokenList(Response):
    """The tokens of an organization that the caller may see."""

    items: list[Token]


class Organization(Response):
    """An organization of the caller.

    Attributes:
        key: Its slug.
        role: What the token may do there; None from an older server.
    """

    id: str
    key: str
    name: str
    role: str | None = None


class Workspace(Response):
    """A workspace of an organization."""

    id: str
    key: str
    name: str
    is_default: bool = False


class MemberRequest(Request):
    """A request to add a member to an organization."""

    username: str
    email: str
    role: str = "member"
    full_name: str | None = None
    expires_in_days: float | None = None


class Member(Response):
    """A member of an organization."""

    id: str
    username: str
    email: str
    full_name: str | None = None
    role: str
    created_at: datetime


class MemberList(Response):
    """The members of an organization, sorted by name."""

    items: list[Member]


class NewMember(Response):
    """A new member with their first token, whose secret no later response contains."""

    member: Member
    token: NewToken
