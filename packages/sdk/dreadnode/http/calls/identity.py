"""Whom a key stands for, and who belongs to an organization."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, body_of, get, given, many, one, organization, segment

if TYPE_CHECKING:
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


def get_user(_: Scope, /) -> Call[User]:
    """Whom the key stands for."""
    return get("/user", one("wire", "User"))


def list_organizations(_: Scope, /) -> Call[list[Organization]]:
    """The organizations that the key may see."""
    return get("/user/organizations", many("wire", "Organization"))


def list_workspaces(scope: Scope, /) -> Call[list[Workspace]]:
    """The workspaces of the organization."""
    return get(f"{organization(scope)}/ws", many("wire", "Workspace"))


def create_workspace(scope: Scope, /, key: str, name: str | None = None) -> Call[Workspace]:
    """Make a workspace in the organization."""
    body = json.dumps(given(key=key, name=name)).encode()
    return Call("POST", f"{organization(scope)}/ws", one("wire", "Workspace"), body=body)


def create_token(scope: Scope, /, request: TokenRequest) -> Call[NewToken]:
    """Make a token for oneself; its secret is told this once."""
    return Call(
        "POST", f"{organization(scope)}/tokens", one("wire", "NewToken"), body=body_of(request)
    )


def list_tokens(scope: Scope, /) -> Call[TokenList]:
    """The tokens of the organization that the key may see, without their secrets."""
    return get(f"{organization(scope)}/tokens", one("wire", "TokenList"))


def revoke_token(scope: Scope, /, token_id: str) -> Call[Token]:
    """Make a token worthless, at once."""
    path = f"{organization(scope)}/tokens/{segment(token_id)}"
    return Call("DELETE", path, one("wire", "Token"), repeatable=True)


def list_members(scope: Scope, /) -> Call[MemberList]:
    """The members of the organization, by name."""
    return get(f"{organization(scope)}/members", one("wire", "MemberList"))


def add_member(scope: Scope, /, request: MemberRequest) -> Call[NewMember]:
    """Make somebody a member, with a first token whose secret is told this once."""
    path = f"{organization(scope)}/members"
    return Call("POST", path, one("wire", "NewMember"), body=body_of(request))


def set_role(scope: Scope, /, username: str, role: str) -> Call[Member]:
    """Give a member another role."""
    path = f"{organization(scope)}/members/{segment(username)}"
    body = json.dumps({"role": role}).encode()
    return Call("PATCH", path, one("wire", "Member"), body=body, repeatable=True)


def remove_member(scope: Scope, /, username: str) -> Call[Member]:
    """Take a member out of the organization, and revoke their tokens."""
    path = f"{organization(scope)}/members/{segment(username)}"
    return Call("DELETE", path, one("wire", "Member"))
