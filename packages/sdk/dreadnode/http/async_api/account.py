"""Users, organizations, workspaces, members and tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import (
    Call,
    body_of,
    drop_none,
    get,
    list_of,
    organization,
    segment,
    workspace,
)

if TYPE_CHECKING:
    from dreadnode.training.costs import Budget, CostReport
    from dreadnode.wire import (
        Member,
        MemberList,
        MemberRequest,
        NewMember,
        NewToken,
        Organization,
        Token,
        TokenList,
        TokenRequest,
        User,
        Workspace,
    )

# Types are imported in the methods: pydantic takes longer to import than most commands take to run.


class AsyncAccountMethods(AsyncRequests):
    """Methods for the user, the organization and its members."""

    async def get_user(self) -> User:
        """Return the user of the token."""
        from dreadnode.wire import User

        return await self.send(get("/user", User.model_validate_json))

    async def list_organizations(self) -> list[Organization]:
        """List the organizations of the user."""
        from dreadnode.wire import Organization

        return await self.send(get("/user/organizations", list_of(Organization)))

    async def list_workspaces(self) -> list[Workspace]:
        """List the workspaces of the organization."""
        from dreadnode.wire import Workspace

        return await self.send(get(f"{organization(self.scope)}/ws", list_of(Workspace)))

    async def create_workspace(self, key: str, name: str | None = None) -> Workspace:
        """Create a workspace in the organization."""
        from dreadnode.wire import Workspace

        body = json.dumps(drop_none(key=key, name=name)).encode()
        path = f"{organization(self.scope)}/ws"
        return await self.send(Call("POST", path, Workspace.model_validate_json, body=body))

    async def get_budget(self) -> Budget:
        """Return the monthly limit of the workspace, and how much of it is left."""
        from dreadnode.training.costs import Budget

        return await self.send(get(f"{workspace(self.scope)}/budget", Budget.model_validate_json))

    async def set_budget(self, monthly_limit_usd: float | None) -> Budget:
        """Set the monthly limit of the workspace, as an administrator; None removes it."""
        from dreadnode.training.costs import Budget

        body = json.dumps({"monthly_limit_usd": monthly_limit_usd}).encode()
        path = f"{workspace(self.scope)}/budget"
        call = Call("PUT", path, Budget.model_validate_json, body=body, repeatable=True)
        return await self.send(call)

    async def get_costs(
        self, group_by: str = "job", *, month: str | None = None, workspace: str | None = None
    ) -> CostReport:
        """Return what the jobs of the organization cost.

        Args:
            group_by: `job`, `model`, `workspace` or `month`.
            month: Only jobs that were submitted in this month, as 2026-11.
            workspace: Only jobs of this workspace.
        """
        from dreadnode.training.costs import CostReport

        path = f"{organization(self.scope)}/training/costs"
        params = drop_none(group_by=group_by, month=month, workspace=workspace)
        return await self.send(get(path, CostReport.model_validate_json, params))

    async def create_token(self, request: TokenRequest) -> NewToken:
        """Create a token; only this response contains its secret."""
        from dreadnode.wire import NewToken

        path = f"{organization(self.scope)}/tokens"
        call = Call("POST", path, NewToken.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def list_tokens(self) -> TokenList:
        """List the organization's tokens that the user may see, without their secrets."""
        from dreadnode.wire import TokenList

        path = f"{organization(self.scope)}/tokens"
        return await self.send(get(path, TokenList.model_validate_json))

    async def revoke_token(self, token_id: str) -> Token:
        """Revoke a token immediately."""
        from dreadnode.wire import Token

        path = f"{organization(self.scope)}/tokens/{segment(token_id)}"
        return await self.send(Call("DELETE", path, Token.model_validate_json, repeatable=True))

    async def list_members(self) -> MemberList:
        """List the members of the organization, sorted by name."""
        from dreadnode.wire import MemberList

        path = f"{organization(self.scope)}/members"
        return await self.send(get(path, MemberList.model_validate_json))

    async def add_member(self, request: MemberRequest) -> NewMember:
        """Add a member with a first token; only this response contains its secret."""
        from dreadnode.wire import NewMember

        path = f"{organization(self.scope)}/members"
        call = Call("POST", path, NewMember.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def set_role(self, username: str, role: str) -> Member:
        """Change the role of a member."""
        from dreadnode.wire import Member

        path = f"{organization(self.scope)}/members/{segment(username)}"
        body = json.dumps({"role": role}).encode()
        call = Call("PATCH", path, Member.model_validate_json, body=body, repeatable=True)
        return await self.send(call)

    async def remove_member(self, username: str) -> Member:
        """Remove a member from the organization, and revoke their tokens."""
        from dreadnode.wire import Member

        path = f"{organization(self.scope)}/members/{segment(username)}"
        return await self.send(Call("DELETE", path, Member.model_validate_json))
