"""Workspaces and members, as administrators manage them."""

from typing import Annotated

from fastapi import APIRouter, Path

from dreadnode_api.auth import people
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.routes import token_view, workspace_view
from dreadnode_api.auth.schemas import (
    USERNAME,
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
from dreadnode_api.http.deps import OrgAdmin, OrgReader, ReadSession, WriteSession
from dreadnode_api.models.auth import Membership, User

router = APIRouter(prefix="/org/{org}", responses=ERRORS, tags=["Identity"])

UserId = Annotated[str, Path(pattern=USERNAME, description="Id or name of the user")]


@router.post("/ws", status_code=201)
async def create_workspace(
    caller: OrgAdmin, request: WorkspaceRequest, session: WriteSession
) -> WorkspaceView:
    """Make a workspace."""
    return workspace_view(await people.create_workspace(session, caller, request))


@router.get("/members")
async def list_members(caller: OrgReader, session: ReadSession) -> MemberList:
    """List the members of an organization, by name."""
    found = await people.list_members(session, caller.org_id)
    return MemberList(items=[_view(user, member) for user, member in found])


@router.post("/members", status_code=201)
async def add_member(caller: OrgAdmin, request: MemberRequest, session: WriteSession) -> NewMember:
    """Make somebody a member, with a first API key for them, which is shown this once."""
    user, member, key, token = await people.add_member(session, caller, request)
    shown = NewToken(**token_view(token, user.username).model_dump(), token=key)
    return NewMember(member=_view(user, member), token=shown)


@router.patch("/members/{user_id}")
async def set_role(
    caller: OrgAdmin, user_id: UserId, request: RoleRequest, session: WriteSession
) -> MemberView:
    """Give a member another role; their keys shrink with it, within a second."""
    role = Role[request.role.upper()]
    return _view(*await people.set_role(session, caller.org_id, user_id, role))


@router.delete("/members/{user_id}")
async def remove_member(caller: OrgAdmin, user_id: UserId, session: WriteSession) -> MemberView:
    """Take a member out, and revoke their keys; what they made stays."""
    return _view(*await people.remove_member(session, caller.org_id, user_id))


def _view(user: User, member: Membership) -> MemberView:
    return MemberView.model_validate(
        {
            "id": user.id,
            "username": user.username,
            "email": user.email,
            "full_name": user.full_name,
            "role": member.role,
            "created_at": member.created_at,
        }
    )
