"""What the scope reads answer, and what the routes of tokens take and give."""

from typing import Annotated, Literal

from pydantic import Field

from dreadnode_api.http.schemas import Moment, Request, Response, Unmarked

RoleWord = Literal["reader", "member", "admin"]
NEW_KEY = r"^[a-z0-9][a-z0-9-]{0,62}$"
USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]+@[A-Za-z0-9][A-Za-z0-9.-]*$"
# Clients show it, and read square brackets as markup.
ORGANIZATION_NAME = r"^[^\[\]\x00-\x1f\x7f]{1,200}$"
NameText = Annotated[Unmarked, Field(max_length=200)]
TokenName = Annotated[Unmarked, Field(max_length=100)]


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


class WorkspaceRequest(Request):
    """A wish for a new workspace."""

    key: str = Field(pattern=NEW_KEY, description="Lower-case letters, digits and hyphens")
    name: NameText | None = None


class MemberRequest(Request):
    """Somebody who is to belong to an organization."""

    username: str = Field(pattern=USERNAME)
    email: str = Field(max_length=254, pattern=EMAIL)
    full_name: NameText | None = None
    role: RoleWord = "member"
    expires_in_days: float | None = Field(None, gt=0, le=3650, description="Of the first key")


class RoleRequest(Request):
    """What a member may do from now on."""

    role: RoleWord


class MemberView(Response):
    """A member of an organization."""

    id: str
    username: str
    email: str
    full_name: str | None
    role: RoleWord
    created_at: Moment = Field(description="When they became a member")


class MemberList(Response):
    """The members of an organization, by name."""

    items: list[MemberView]


class TokenRequest(Request):
    """A wish for a new API key."""

    name: TokenName
    role: RoleWord | None = Field(None, description="At most the owner's, which is the default")
    username: str | None = Field(
        None, pattern=USERNAME, description="The owner, if not you; for administrators"
    )
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


class NewMember(Response):
    """A new member, and their first key, which is shown this once."""

    member: MemberView
    token: NewToken


class TokenList(Response):
    """The API keys of an organization."""

    items: list[TokenView]
