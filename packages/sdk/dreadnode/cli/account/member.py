"""`dn member add | list | role | remove`, and `dn workspace create | list | budget`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import units, views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say
from dreadnode.errors import InputError
from dreadnode.lazy_types import wire

Role = Literal["reader", "member", "admin"]

app = App(
    name="member", help="Manage the members of the organization and their roles.", version_flags=[]
)
workspaces = App(
    name="workspace", help="Create and list workspaces, and limit their costs.", version_flags=[]
)

MEMBERS: tuple[Column, ...] = (
    ("user", lambda member: member.username),
    ("role", lambda member: member.role),
    ("email", lambda member: member.email),
    ("name", lambda member: member.full_name),
    ("since", lambda member: member.created_at),
)
WORKSPACES: tuple[Column, ...] = (
    ("key", lambda workspace: workspace.key),
    ("name", lambda workspace: workspace.name),
    ("default", lambda workspace: "yes" if workspace.is_default else ""),
)
BUDGET: tuple[Column, ...] = (
    ("workspace", lambda budget: budget.workspace),
    ("month", lambda budget: budget.month),
    ("limit", lambda budget: views.optional_dollars(budget.monthly_limit_usd) or "unlimited"),
    ("used", lambda budget: views.dollars(budget.used_usd)),
    ("left", lambda budget: views.optional_dollars(budget.left_usd)),
)
User = Annotated[str, Parameter(help="Name of the user.")]


@app.command
def add(
    user: User,
    /,
    *,
    email: Annotated[str, Parameter(help="Email address, which identifies the person.")],
    role: Annotated[
        Role,
        Parameter(
            help="`reader` can read, `member` can also push and train, `admin` can also manage.",
            show_default=True,
        ),
    ] = "member",
    name: Annotated[str | None, Parameter(help="Full name.")] = None,
    days: Annotated[
        float | None,
        Parameter(converter=units.days, help="Days until the first token expires, or `12h`."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Add a member with a first token, which is shown only now.

    Only the token goes to stdout, for use in a pipe.
    """
    request = wire.MemberRequest(
        username=user, email=email, role=role, full_name=name, expires_in_days=days
    )
    with common.client() as client:
        made = client.add_member(request)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    say(f"added {made.member.username} with the role {made.member.role} and this token:")
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
    role: Annotated[Role, Parameter(help="The new role.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Change the role of a member; their tokens cannot do more from now on."""
    with common.client() as client:
        changed = client.set_role(user, role)
        say(f"{changed.username} has the role {changed.role} in `{client.scope.organization}` now")
    common.out.record(changed, MEMBERS)


@app.command
def remove(user: User, /, *, common: Common = DEFAULT) -> None:
    """Remove a member and revoke their tokens; their jobs and datasets stay."""
    with common.client() as client:
        removed = client.remove_member(user)
        say(
            f"removed {removed.username} from `{client.scope.organization}` and revoked their "
            "tokens"
        )
    common.out.record(removed, MEMBERS)


@workspaces.command(name="create")
def create_workspace(
    key: Annotated[str, Parameter(help="Slug: lower-case letters, digits and hyphens.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Display name.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Create a workspace, whose jobs are separate from those of other workspaces."""
    with common.client() as client:
        common.out.record(client.create_workspace(key, name), WORKSPACES)


@workspaces.command(name="budget")
def budget(
    usd: Annotated[
        float | None, Parameter(converter=units.dollars, help="The new monthly limit.")
    ] = None,
    /,
    *,
    remove: Annotated[bool, Parameter(help="Remove the limit.")] = False,
    common: Common = DEFAULT,
) -> None:
    """Show, set or remove the monthly limit of a workspace's costs, in US dollars.

    Only an administrator can set it. A job that can cost more than is left is refused, and running
    jobs stop after the step that reaches the limit.
    """
    if remove and usd is not None:
        raise InputError("`--remove` removes the limit; leave the amount out")
    with common.client() as client:
        changes = remove or usd is not None
        found = client.set_budget(usd) if changes else client.get_budget()
    common.out.record(found, BUDGET)


@workspaces.command(name="list")
def list_workspaces(*, common: Common = DEFAULT) -> None:
    """List the workspaces of the organization."""
    with common.client() as client:
        common.out.rows(client.list_workspaces(), WORKSPACES, none="no workspaces")
