"""Requests and responses about users, organizations, workspaces and tokens."""

from typing import Annotated, Literal

from pydantic import Field

from dreadnode_api.http.patterns import EMAIL, NEW_SLUG, USERNAME
from dreadnode_api.http.schemas import Request, Response, SingleLine, Timestamp

RoleWord = Literal["reader", "member", "admin"]
NameText = Annotated[SingleLine, Field(max_length=200)]
TokenName = Annotated[SingleLine, Field(max_length=100)]


class UserView(Response):
    """The owner of a token."""

    id: str
    email_address: str
    username: str
    full_name: str | None = None


class OrganizationView(Response):
    """An organization, with the sandbox limits that clients of version 2 require."""

    id: str
    key: str
    name: str
    role: str | None = Field(default=None, description="What the token may do here")
    created_at: Timestamp
    updated_at: Timestamp
    effective_max_sandbox_runtime_seconds: int
    effective_default_sandbox_runtime_seconds: int
    platform_max_sandbox_runtime_seconds: int
    platform_default_sandbox_runtime_seconds: int
    max_sandbox_runtime_source_level: str = "platform"
    default_sandbox_runtime_source_level: str = "platform"


class WorkspaceView(Response):
    """A workspace."""

    id: str
    key: str
    name: str
    org_id: str
    is_default: bool
    created_at: Timestamp
    updated_at: Timestamp


class ResourceUsage(Response):
    """How much of one resource an organization uses."""

    resource: Literal["stored_bytes", "datasets", "blobs", "tokens", "queued_jobs", "webhooks"]
    used: int
    limit: int | None = Field(description="Null if unlimited")


class UsageView(Response):
    """How much an organization uses, and how much it may use."""

    items: list[ResourceUsage]


class ProjectView(Response):
    """A project, as clients of version 2 expect it; this server has none."""

    id: str
    key: str
    name: str
    is_default: bool
    created_at: Timestamp
    updated_at: Timestamp


class WorkspaceRequest(Request):
    """A request for a new workspace."""

    key: str = Field(pattern=NEW_SLUG, description="Lower-case letters, digits and hyphens")
    name: NameText | None = None


class MemberRequest(Request):
    """A request to add a member to an organization."""

    username: str = Field(pattern=USERNAME)
    email: str = Field(max_length=254, pattern=EMAIL)
    full_name: NameText | None = None
    role: RoleWord = "member"
    expires_in_days: float | None = Field(
        None, gt=0, le=3650, description="Lifetime of the first token"
    )


class RoleRequest(Request):
    """The new role of a member."""

    role: RoleWord


class MemberView(Response):
    """A member of an organization."""

    id: str
    username: str
    email: str
    full_name: str | None
    role: RoleWord
    created_at: Timestamp = Field(description="When they became a member")


class MemberList(Response):
    """The members of an organization, by name."""

    items: list[MemberView]


class TokenRequest(Request):
    """A request for a new API token."""

    name: TokenName
    role: RoleWord | None = Field(
        None, description="At most the owner's role, which is the default"
    )
    username: str | None = Field(
        None, pattern=USERNAME, description="Another owner; administrators only"
    )
    expires_in_days: float | None = Field(None, gt=0, le=3650)


class TokenView(Response):
    """An API token, without the token itself."""

    id: str
    name: str
    role: RoleWord
    hint: str
    username: str
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None


class NewToken(TokenView):
    """An API token with the token itself, which is shown only once."""

    token: str


class NewMember(Response):
    """A new member and their first token, which is shown only once."""

    member: MemberView
    token: NewToken


class TokenList(Response):
    """The API tokens of an organization."""

    items: list[TokenView]
