"""Users, organizations, workspaces, members and tokens."""

from __future__ import annotations

import json

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
from dreadnode.lazy_types import costs, wire


class AsyncAccountMethods(AsyncRequests):
    """Methods for the user, the organization and its members."""

    async def get_user(self) -> wire.User:
        """Return the user of the token."""
        return await self.send(get("/user", wire.User.model_validate_json))

    async def list_organizations(self) -> list[wire.Organization]:
        """List the organizations of the user."""
        return await self.send(get("/user/organizations", list_of(wire.Organization)))

    async def list_workspaces(self) -> list[wire.Workspace]:
        """List the workspaces of the organization."""
        return await self.send(get(f"{organization(self.scope)}/ws", list_of(wire.Workspace)))

    async def create_workspace(self, key: str, name: str | None = None) -> wire.Workspace:
        """Create a workspace in the organization."""
        body = json.dumps(drop_none(key=key, name=name)).encode()
        path = f"{organization(self.scope)}/ws"
        return await self.send(Call("POST", path, wire.Workspace.model_validate_json, body=body))

    async def get_budget(self) -> costs.Budget:
        """Return the monthly limit of the workspace, and how much of it is left."""
        return await self.send(
            get(f"{workspace(self.scope)}/budget", costs.Budget.model_validate_json)
        )

    async def set_budget(self, monthly_limit_usd: float | None) -> costs.Budget:
        """Set the monthly limit of the workspace, as an administrator; None removes it."""
        body = json.dumps({"monthly_limit_usd": monthly_limit_usd}).encode()
        path = f"{workspace(self.scope)}/budget"
        call = Call("PUT", path, costs.Budget.model_validate_json, body=body, repeatable=True)
        return await self.send(call)

    async def get_costs(
        self, group_by: str = "job", *, month: str | None = None, workspace: str | None = None
    ) -> costs.CostReport:
        """Return what the jobs of the organization cost.

        Args:
            group_by: `job`, `model`, `workspace` or `month`.
            month: Only jobs that were submitted in this month, as 2026-11.
            workspace: Only jobs of this workspace.
        """
        path = f"{organization(self.scope)}/training/costs"
        params = drop_none(group_by=group_by, month=month, workspace=workspace)
        return await self.send(get(path, costs.CostReport.model_validate_json, params))

    async def create_token(self, request: wire.TokenRequest) -> wire.NewToken:
        """Create a token; only this response contains its secret."""
        path = f"{organization(self.scope)}/tokens"
        call = Call("POST", path, wire.NewToken.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def list_tokens(self) -> wire.TokenList:
        """List the organization's tokens that the user may see, without their secrets."""
        path = f"{organization(self.scope)}/tokens"
        return await self.send(get(path, wire.TokenList.model_validate_json))

    async def revoke_token(self, token_id: str) -> wire.Token:
        """Revoke a token immediately."""
        path = f"{organization(self.scope)}/tokens/{segment(token_id)}"
        return await self.send(
            Call("DELETE", path, wire.Token.model_validate_json, repeatable=True)
        )

    async def list_members(self) -> wire.MemberList:
        """List the members of the organization, sorted by name."""
        path = f"{organization(self.scope)}/members"
        return await self.send(get(path, wire.MemberList.model_validate_json))

    async def add_member(self, request: wire.MemberRequest) -> wire.NewMember:
        """Add a member with a first token; only this response contains its secret."""
        path = f"{organization(self.scope)}/members"
        call = Call("POST", path, wire.NewMember.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def set_role(self, username: str, role: str) -> wire.Member:
        """Change the role of a member."""
        path = f"{organization(self.scope)}/members/{segment(username)}"
        body = json.dumps({"role": role}).encode()
        call = Call("PATCH", path, wire.Member.model_validate_json, body=body, repeatable=True)
        return await self.send(call)

    async def remove_member(self, username: str) -> wire.Member:
        """Remove a member from the organization, and revoke their tokens."""
        path = f"{organization(self.scope)}/members/{segment(username)}"
        return await self.send(Call("DELETE", path, wire.Member.model_validate_json))
