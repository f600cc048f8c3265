"""`dn token create | list | revoke`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import units
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say, when
from dreadnode.lazy_types import wire

app = App(name="token", help="Create, list and revoke API tokens.", version_flags=[])

TOKENS: tuple[Column, ...] = (
    ("id", lambda token: token.id),
    ("name", lambda token: token.name),
    ("user", lambda token: token.username),
    ("role", lambda token: token.role),
    ("prefix", lambda token: token.hint),
    ("created", lambda token: token.created_at),
    ("expires", lambda token: token.expires_at),
    ("revoked", lambda token: token.revoked_at),
)


@app.command
def create(
    name: Annotated[str, Parameter(help="Name that says its purpose.")],
    /,
    *,
    role: Annotated[
        Literal["reader", "member", "admin"] | None,
        Parameter(help="Role, at most the owner's, which is the default."),
    ] = None,
    user: Annotated[str | None, Parameter(help="Owner; you by default. Needs an admin.")] = None,
    days: Annotated[
        float | None,
        Parameter(
            converter=units.days,
            help="Days until it expires, or `12h`; else it is valid until revoked.",
        ),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Create a token; it is shown only now, because the server keeps no copy.

    Only the token goes to stdout, for use in a pipe.
    """
    request = wire.TokenRequest(name=name, username=user, role=role, expires_in_days=days)
    with common.client() as client:
        made = client.create_token(request)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    until = f", valid until {when(made.expires_at)}" if made.expires_at else ""
    say(f"created token `{made.name}` ({made.id}) for {made.username}, {made.role}{until}:")
    common.out.text(made.token)


@app.command(name="list")
def list_tokens(*, common: Common = DEFAULT) -> None:
    """List tokens without their secrets; an admin sees those of all users."""
    with common.client() as client:
        found = client.list_tokens().items
    common.out.rows(found, TOKENS, none="no tokens")


@app.command
def revoke(
    token: Annotated[str, Parameter(help="Id of the token: see `dn token list`.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Revoke a token immediately."""
    with common.client() as client:
        revoked = client.revoke_token(token)
    say(f"revoked token `{revoked.name}`; the server refuses it from now on")
    common.out.record(revoked, TOKENS)
