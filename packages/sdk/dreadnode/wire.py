"""What crosses the wire: datasets and identities here, training jobs in `dreadnode.training.jobs`.

A request is strict: a misspelt field is an error, not a default. An answer is patient: a field that
this version does not know is passed over, so that an old client keeps working. A type is built when
it is first used, since a command uses few of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


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


class Split(Response):
    """One file of a dataset: as it was pushed, and as JSONL, which is what jobs read."""

    name: str
    format: str
    rows: int
    bytes: int
    sha256: str
    content_bytes: int
    content_sha256: str


class Dataset(Response):
    """One version of a dataset; its bytes never change."""

    name: str
    version: str
    rows: int
    bytes: int
    sha256: str
    format: str = "jsonl"
    splits: list[Split] = Field(default_factory=list)
    created_at: datetime
    created_by: str | None = None
    notes: list[str] = Field(default_factory=list)

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


class TokenRequest(Request):
    """A token to be made.

    Attributes:
        name: What it is for.
        username: Whose it is; for administrators, who may make them for others.
        role: At most the owner's, which is the default.
        expires_in_days: For how long it is good; until it is revoked if None.
    """

    name: str
    username: str | None = None
    role: Literal["reader", "member", "admin"] | None = None
    expires_in_days: Annotated[float, Field(gt=0)] | None = None


class Token(Response):
    """A token without its secret, of which only `hint` is known afterwards."""

    id: str
    name: str
    role: str
    hint: str = ""
    username: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewToken(Token):
    """A token that has just been made, with its secret, which is told this once."""

    token: str = Field(repr=False)


class TokenList(Response):
    """The tokens of an organization that the key may see."""

    items: list[Token]


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


class MemberRequest(Request):
    """Somebody who is to belong to an organization."""

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
    """The members of an organization, by name."""

    items: list[Member]


class NewMember(Response):
    """A new member, and their first token, which is told this once."""

    member: Member
    token: NewToken
