"""Dependencies of routes that need a token: the caller, and its organization and workspace."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from sqlalchemy import or_, select

from dreadnode_api.auth import signed
from dreadnode_api.auth.callers import Authenticator, Caller, Role, need
from dreadnode_api.db import Database
from dreadnode_api.errors import Forbidden, NotFound, Unauthenticated
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.models.auth import Workspace

# Declared for `/docs`. `caller` reads the headers itself, so that both fail with our errors.
_BEARER = HTTPBearer(auto_error=False, description="An API token")
_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same API token")


async def caller(
    request: Request,
    _bearer: Annotated[object, Security(_BEARER)] = None,
    _header: Annotated[object, Security(_API_KEY)] = None,
) -> Caller:
    """Return the caller that the request's token identifies.

    Raises:
        Unauthenticated: the token is missing, not valid, or that of a job that has ended.
    """
    authenticator: Authenticator = request.app.state.authenticator
    found = await authenticator.caller(request.headers)
    if found.ended:
        raise Unauthenticated("The job of this token has ended, and its token with it")
    return found


AnyCaller = Annotated[Caller, Depends(caller)]


async def user(caller: AnyCaller) -> Caller:
    """Return the caller, who must be a user.

    Raises:
        Forbidden: the token is a sandbox's.
    """
    if caller.role is None:
        raise Forbidden("The token of a job gives access to that job only")
    return caller


UserCaller = Annotated[Caller, Depends(user)]

OrgSlug = Annotated[
    str, Path(max_length=64, pattern=SLUG, description="Slug or id of the organization")
]
WorkspaceSlug = Annotated[
    str, Path(max_length=64, pattern=SLUG, description="Slug or id of the workspace")
]


def check_org(caller: Caller, org: str) -> None:
    """Return if ORG is the caller's own organization.

    Raises:
        NotFound: it is another one or does not exist; both have the same message.
    """
    if org not in (caller.org_id, caller.org_slug):
        raise NotFound(f"This API token does not give access to an organization `{org}`")


def in_org(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency: the caller, a user with at least ROLE in the path's organization."""

    async def dependency(org: OrgSlug, caller: UserCaller) -> Caller:
        check_org(caller, org)
        need(caller, role)
        return caller

    return dependency


async def signature_of(
    token_id: Annotated[str | None, Query(max_length=64, pattern=SLUG)] = None,
    expires: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    signature: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
) -> signed.Signature | None:
    """Return the signature in a request's query, if it is complete."""
    if token_id is None or expires is None or signature is None:
        return None
    return signed.Signature(token_id, expires, signature)


async def downloader(
    org: OrgSlug,
    request: Request,
    signature: Annotated[signed.Signature | None, Depends(signature_of)],
    _bearer: Annotated[object, Security(_BEARER)] = None,
    _header: Annotated[object, Security(_API_KEY)] = None,
) -> Caller:
    """Return a reader of the organization, identified by a token or by a signed URL."""
    if signature is None:
        found = await caller(request)
    else:
        authenticator: Authenticator = request.app.state.authenticator
        found = await authenticator.signer(signature, request.url.path)
    await user(found)
    check_org(found, org)
    need(found, Role.READER)
    return found


Downloader = Annotated[Caller, Depends(downloader)]
OrgReader = Annotated[Caller, Depends(in_org(Role.READER))]
OrgMember = Annotated[Caller, Depends(in_org(Role.MEMBER))]
OrgAdmin = Annotated[Caller, Depends(in_org(Role.ADMIN))]


@dataclass(frozen=True, slots=True)
class WorkspaceScope:
    """A caller in a workspace that it has access to."""

    caller: Caller
    org_id: str
    workspace_id: str


async def find_workspace(database: Database, org_id: str, slug: str) -> Workspace:
    """Return the workspace with this slug or id, read in a transaction of its own.

    Raises:
        NotFound: the organization has no such workspace.
    """
    async with database.reading() as session:
        found = await session.scalar(
            select(Workspace).where(
                Workspace.org_id == org_id, or_(Workspace.slug == slug, Workspace.id == slug)
            )
        )
    if found is None:
        raise NotFound(f"This organization has no workspace `{slug}`")
    return found


def in_workspace(role: Role) -> Callable[..., Awaitable[WorkspaceScope]]:
    """Return a dependency: a user with at least ROLE, in the path's workspace."""

    async def dependency(
        org: OrgSlug, ws: WorkspaceSlug, caller: UserCaller, database: InDatabase
    ) -> WorkspaceScope:
        check_org(caller, org)
        workspace = await find_workspace(database, caller.org_id, ws)
        need(caller, role)
        return WorkspaceScope(caller, caller.org_id, workspace.id)

    return dependency


Reader = Annotated[WorkspaceScope, Depends(in_workspace(Role.READER))]
Member = Annotated[WorkspaceScope, Depends(in_workspace(Role.MEMBER))]
Admin = Annotated[WorkspaceScope, Depends(in_workspace(Role.ADMIN))]
