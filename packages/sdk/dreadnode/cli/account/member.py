"""`dn member add | list | role | remove`, and `dn workspace create | list`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import units, views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say

Role = Literal["reader", "member", "admin"]

app = App(
    name="member",
    help="Say who belongs to the organization, and what they may do.",
    version_flags=[],
)
workspaces = App(name="workspace", help="Make workspaces and list them.", version_flags=[])

MEMBERS: tuple[Column, ...] = (
    ("user", lambda member: member.username),
    ("role", lambda member: member.role),
    ("email", lambda member: member.email),
    ("name", lambda member: member.full_name),
    ("since", lambda member: views.when(member.created_at)),
)
WORKSPACES: tuple[Column, ...] = (
    ("key", lambda workspace: workspace.key),
    ("name", lambda workspace: workspace.name),
    ("default", lambda workspace: "yes" if workspace.is_default else ""),
)
User = Annotated[str, Parameter(help="The user's name.")]


@app.command
def add(
    user: User,
    /,
    *,
    email: Annotated[str, Parameter(help="The user's address, by which one name is one person.")],
    role: Annotated[
        Role, Parameter(help="What they may do: read; push and train; manage.", show_default=True)
    ] = "member",
    name: Annotated[str | None, Parameter(help="Their full name.")] = None,
    days: Annotated[
        float | None,
        Parameter(
            converter=units.days, help="How long their first token is valid: days, or `12h`."
        ),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Make somebody a member, with a first token for them, which is shown this once.

    Only the token goes to stdout, so that it can be piped to where it belongs.
    """
    from dreadnode.wire import MemberRequest

    request = MemberRequest(
        username=user, email=email, role=role, full_name=name, expires_in_days=days
    )
    with common.client() as client:
        made = client.add_member(request)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    say(f"made {made.member.username} a member as {made.member.role}, with this token:")
    common.out.text(made.token.token)


@app.command(name="list")
def list_members(*, common: Common = DEFAULT) -> None:
    """List the members of the organization."""
    with common.client() as client:
        found = client.list_members().items
    common.out.rows(found, MEMBERS, none="no members")


@app.command(name="role")
def set_role(
    user: User,
    role: Annotated[Role, Parameter(help="What they may do from now on.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Give a member another role; their tokens shrink with it, at once."""
    with common.client() as client:
        common.out.record(client.set_role(user, role), MEMBERS)


@app.command
def remove(user: User, /, *, common: Common = DEFAULT) -> None:
    """Take a member out, and make their tokens worthless; what they made stays."""
    with common.client() as client:
        common.out.record(client.remove_member(user), MEMBERS)


@workspaces.command(name="create")
def create_workspace(
    key: Annotated[str, Parameter(help="Lower-case letters, digits and hyphens.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="For people.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Make a workspace, in which jobs live apart from those of others."""
    with common.client() as client:
        common.out.record(client.create_workspace(key, name), WORKSPACES)


@workspaces.command(name="list")
def list_workspaces(*, common: Common = DEFAULT) -> None:
    """List the organization's workspaces."""
    with common.client() as client:
        common.out.rows(client.list_workspaces(), WORKSPACES, none="no workspaces")
