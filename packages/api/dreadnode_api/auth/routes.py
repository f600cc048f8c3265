"""Routes of the caller, its organizations and workspaces, and API tokens."""

from typing import Annotated

from fastapi import APIRouter, Path

from dreadnode_api import quotas
from dreadnode_api.auth import people, service
from dreadnode_api.auth.callers import Caller
from dreadnode_api.auth.deps import OrgReader, Reader, UserCaller, WorkspaceSlug, find_workspace
from dreadnode_api.auth.schemas import (
    NewToken,
    OrganizationView,
    ProjectView,
    ResourceUsage,
    TokenList,
    TokenRequest,
    TokenView,
    UsageView,
    UserView,
    WorkspaceView,
)
from dreadnode_api.errors import ERRORS, NotFound
from dreadnode_api.http.deps import InDatabase, InSettings, ReadSession, WriteSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.models.auth import Organization
from dreadnode_api.settings import Settings

router = APIRouter(responses=ERRORS, tags=["Identity"])


@router.get("/user")
async def get_user(caller: UserCaller) -> UserView:
    """Return the owner of the token."""
    return UserView(
        id=caller.user_id or "",
        email_address=caller.email or "",
        username=caller.username or "",
        full_name=caller.full_name,
    )


@router.get("/user/organizations")
async def list_organizations(
    caller: UserCaller, session: ReadSession, settings: InSettings
) -> list[OrganizationView]:
    """List the organizations that the token gives access to."""
    found = await session.get_one(Organization, caller.org_id)
    return [_organization(found, caller, settings)]


@router.get("/org/{org}")
async def get_organization(
    caller: OrgReader, session: ReadSession, settings: InSettings
) -> OrganizationView:
    """Return an organization."""
    found = await session.get_one(Organization, caller.org_id)
    return _organization(found, caller, settings)


@router.get("/org/{org}/usage")
async def get_usage(caller: OrgReader, session: ReadSession, settings: InSettings) -> UsageView:
    """Return how much an organization uses of each resource, and its quotas."""
    found = await quotas.usage(session, settings, caller.org_id)
    return UsageView(items=[ResourceUsage.of(each, limit=each.limit or None) for each in found])


@router.get("/org/{org}/ws")
async def list_workspaces(caller: OrgReader, session: ReadSession) -> list[WorkspaceView]:
    """List the workspaces of an organization, the default one first."""
    found = await people.list_workspaces(session, caller.org_id)
    return [WorkspaceView.of(each, key=each.slug) for each in found]


@router.get("/org/{org}/ws/{ws}")
async def get_workspace(
    caller: OrgReader, ws: WorkspaceSlug, database: InDatabase
) -> WorkspaceView:
    """Return a workspace."""
    found = await find_workspace(database, caller.org_id, ws)
    return WorkspaceView.of(found, key=found.slug)


@router.get("/org/{org}/ws/{ws}/projects")
async def list_projects(_scope: Reader) -> list[ProjectView]:
    """List the projects of a workspace: always empty; `project_ref` is a free label here."""
    return []


@router.get("/org/{org}/ws/{ws}/projects/{project}")
async def get_project(
    _scope: Reader, project: Annotated[str, Path(max_length=64, pattern=SLUG)]
) -> ProjectView:
    """Answer 404: this server does not manage projects."""
    raise NotFound(
        f"This server does not manage projects such as `{project}`; `project_ref` is a free label"
    )


@router.post("/org/{org}/tokens", status_code=201)
async def create_token(
    caller: OrgReader, request: TokenRequest, session: WriteSession, settings: InSettings
) -> NewToken:
    """Create an API token for yourself, or as administrator for a member; it is shown only once."""
    await quotas.require(session, settings, caller.org_id, "tokens")
    secret, token = await service.create_token(session, caller, request)
    owner = request.username or caller.username or ""
    return NewToken.of(token, username=owner, token=secret)


@router.get("/org/{org}/tokens")
async def list_tokens(caller: OrgReader, session: ReadSession) -> TokenList:
    """List API tokens, newest first: an admin's token sees all, another its owner's of its role."""
    found = await service.list_tokens(session, caller)
    return TokenList(items=[TokenView.of(token, username=username) for token, username in found])


@router.delete("/org/{org}/tokens/{token_id}")
async def revoke_token(
    caller: OrgReader,
    token_id: Annotated[str, Path(max_length=64, pattern=SLUG)],
    session: WriteSession,
) -> TokenView:
    """Revoke an API token; requests with it fail within a second."""
    token, username = await service.revoke_token(session, caller, token_id)
    return TokenView.of(token, username=username)


def _organization(found: Organization, caller: Caller, settings: Settings) -> OrganizationView:
    return OrganizationView.of(
        found,
        key=found.slug,
        role=caller.role.word if caller.role else None,
        effective_max_sandbox_runtime_seconds=settings.job_wall_seconds,
        effective_default_sandbox_runtime_seconds=settings.job_wall_seconds,
        platform_max_sandbox_runtime_seconds=settings.job_wall_seconds,
        platform_default_sandbox_runtime_seconds=settings.job_wall_seconds,
    )
