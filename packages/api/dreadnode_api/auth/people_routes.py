"""Routes by which administrators manage workspaces and members."""

from typing import Annotated

from fastapi import APIRouter, Path

from dreadnode_api import quotas
from dreadnode_api.auth import people
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.deps import OrgAdmin, OrgReader
from dreadnode_api.auth.schemas import (
    MemberList,
    MemberRequest,
    MemberView,
    NewMember,
    NewToken,
    RoleRequest,
    WorkspaceRequest,
    WorkspaceView,
)
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InSettings, ReadSession, WriteSession
from dreadnode_api.http.patterns import USERNAME
from dreadnode_api.models.auth import Membership, User

router = APIRouter(prefix="/org/{org}", responses=ERRORS, tags=["Identity"])

UserId = Annotated[str, Path(pattern=USERNAME, description="Id or name of the user")]


@router.post("/ws", status_code=201)
async def create_workspace(
    caller: OrgAdmin, request: WorkspaceRequest, session: WriteSession
) -> WorkspaceView:
    """Create a workspace."""
    made = await people.create_workspace(session, caller, request)
    return WorkspaceView.of(made, key=made.slug)


@router.get("/members")
async def list_members(caller: OrgReader, session: ReadSession) -> MemberList:
    """List the members of an organization, by name."""
    found = await people.list_members(session, caller.org_id)
    return MemberList(items=[_view(user, member) for user, member in found])


@router.post("/members", status_code=201)
async def add_member(
    caller: OrgAdmin, request: MemberRequest, session: WriteSession, settings: InSettings
) -> NewMember:
    """Add a member, with a first API token for them, which is shown only once."""
    await quotas.require(session, settings, caller.org_id, "tokens")
    user, member, secret, token = await people.add_member(session, caller, request)
    shown = NewToken.of(token, username=user.username, token=secret)
    return NewMember(member=_view(user, member), token=shown)


@router.patch("/members/{user_id}")
async def set_role(
    caller: OrgAdmin, user_id: UserId, request: RoleRequest, session: WriteSession
) -> MemberView:
    """Change the role of a member; it limits their tokens within a second."""
    role = Role[request.role.upper()]
    return _view(*await people.set_role(session, caller.org_id, user_id, role))


@router.delete("/members/{user_id}")
async def remove_member(caller: OrgAdmin, user_id: UserId, session: WriteSession) -> MemberView:
    """Remove a member and revoke their tokens; what they created stays."""
    return _view(*await people.remove_member(session, caller.org_id, user_id))


def _view(user: User, member: Membership) -> MemberView:
    return MemberView.of(user, role=member.role, created_at=member.created_at)
