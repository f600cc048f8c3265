"""The members of the organization, and what administrators change about them."""

from typing import Any

from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.responses import Response

from dreadnode_api.auth import people_routes as api
from dreadnode_api.auth.people_routes import UserId
from dreadnode_api.auth.schemas import MemberRequest, RoleRequest
from dreadnode_api.console.deps import AdminPage, ReaderPage
from dreadnode_api.console.forms import number, texts, validated
from dreadnode_api.console.layout import redirect
from dreadnode_api.http.deps import InDatabase, InSettings, ReadSession

router = APIRouter(prefix="/ws/{ws}/settings")

ROLES = [("reader", "reader"), ("member", "member"), ("admin", "admin")]
_MEMBER = TypeAdapter(MemberRequest)
_ROLE = TypeAdapter(RoleRequest)


@router.get("")
async def settings(page: ReaderPage) -> Response:
    """Go to the first page of the settings."""
    return redirect(page.url("settings/members"))


@router.get("/members")
async def members(page: ReaderPage, session: ReadSession) -> Response:
    """Show the members."""
    found = await api.list_members(page.caller, session)
    return page.render("members.html", members=found.items, roles=ROLES)


@router.post("/members")
async def add(page: AdminPage, database: InDatabase, settings: InSettings) -> Response:
    """Add a member, and show their first token once."""
    values = await texts(page.request)
    names = MemberRequest.model_fields.keys() & values
    body: dict[str, Any] = {name: values[name].strip() for name in names}
    body["expires_in_days"] = number(values.get("expires_in_days", ""))
    request = validated(_MEMBER, body)
    async with database.writing() as session:
        made = await api.add_member(page.caller, request, session, settings)
    return page.render(
        "new_token.html", token=made.token, back=page.url("settings/members"), member=made.member
    )


@router.post("/members/{user_id}/role")
async def set_role(page: AdminPage, user_id: UserId, database: InDatabase) -> Response:
    """Change the role of a member."""
    values = await texts(page.request)
    request = validated(_ROLE, {"role": values.get("role")})
    async with database.writing() as session:
        await api.set_role(page.caller, user_id, request, session)
    return redirect(page.url("settings/members"))


@router.post("/members/{user_id}/remove")
async def remove(page: AdminPage, user_id: UserId, database: InDatabase) -> Response:
    """Remove a member and revoke their tokens."""
    async with database.writing() as session:
        await api.remove_member(page.caller, user_id, session)
    return redirect(page.url("settings/members"))
