"""`dn token create | list | revoke`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import units, views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say

app = App(name="token", help="Make keys, list and revoke them.", version_flags=[])

TOKENS: tuple[Column, ...] = (
    ("id", lambda token: token.id),
    ("name", lambda token: token.name),
    ("user", lambda token: token.username),
    ("role", lambda token: token.role),
    ("begins", lambda token: token.hint),
    ("created", lambda token: views.when(token.created_at)),
    ("expires", lambda token: views.when(token.expires_at)),
    ("revoked", lambda token: views.when(token.revoked_at)),
)


@app.command
def create(
    name: Annotated[str, Parameter(help="What it is for.")],
    /,
    *,
    role: Annotated[
        Literal["reader", "member", "admin"] | None,
        Parameter(help="At most the owner's, which is the default."),
    ] = None,
    user: Annotated[
        str | None, Parameter(help="Whose it is, if not yours; for administrators.")
    ] = None,
    days: Annotated[
        float | None,
        Parameter(
            converter=units.days,
            help="How long the token is valid: days, or `12h`; until it is revoked if not given.",
        ),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Make a token; it is shown this once, and the server keeps no copy.

    Only the token goes to stdout, so that it can be piped to where it belongs.
    """
    from dreadnode.wire import TokenRequest

    request = TokenRequest(name=name, username=user, role=role, expires_in_days=days)
    with common.client() as client:
        made = client.create_token(request)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    until = f", good until {views.when(made.expires_at)}" if made.expires_at else ""
    say(f"made token `{made.name}` ({made.id}) for {made.username}, {made.role}{until}:")
    common.out.text(made.token)


@app.command(name="list")
def list_tokens(*, common: Common = DEFAULT) -> None:
    """List tokens, without their secrets; an admin sees everybody's."""
    with common.client() as client:
        found = client.list_tokens().items
    common.out.rows(found, TOKENS, none="no tokens")


@app.command
def revoke(
    token: Annotated[str, Parameter(help="The token's id: see `dn token list`.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Make a token worthless, at once."""
    with common.client() as client:
        revoked = client.revoke_token(token)
    common.out.record(revoked, TOKENS)
