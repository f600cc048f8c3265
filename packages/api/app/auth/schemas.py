"""What the scope reads answer, and what the routes of tokens take and give."""

from typing import Literal

from pydantic import Field

from app.schemas import Moment, Request, Response

RoleWord = Literal["reader", "member", "admin"]


class UserView(Response):
    """The owner of a key."""

    id: str
    email_address: str
    username: str
    full_name: str | None = None


class OrganizationView(Response):
    """An organization, with the sandbox limits that clients of version 2 ask for."""

    id: str
    key: str
    name: str
    created_at: Moment
    updated_at: Moment
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
    created_at: Moment
    updated_at: Moment


class ProjectView(Response):
    """A project; this server has none, and names the shape for clients that ask."""

    id: str
    key: str
    name: str
    is_default: bool
    created_at: Moment
    updated_at: Moment


class TokenRequest(Request):
    """A wish for a new API key."""

    name: str = Field(min_length=1, max_length=100)
    role: RoleWord | None = Field(None, description="At most your own, which is the default")
    expires_in_days: float | None = Field(None, gt=0, le=3650)


class TokenView(Response):
    """An API key, without the key."""

    id: str
    name: str
    role: RoleWord
    hint: str
    username: str
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None


class NewToken(TokenView):
    """An API key with the key itself, which is shown this once."""

    token: str


class TokenList(Response):
    """The API keys of an organization."""

    items: list[TokenView]
