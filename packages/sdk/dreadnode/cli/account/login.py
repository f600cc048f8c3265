"""`dn login | logout | whoami`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common, complete_scope
from dreadnode.cli.output import hint, say
from dreadnode.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.wire import Organization, Workspace


def login(
    token: Annotated[
        str | None,
        Parameter(help="API token; if not given, it is prompted for or read from stdin."),
    ] = None,
    /,
    *,
    save_as: Annotated[
        str | None, Parameter(help="Name of the profile; else the server's host.")
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Check a token with a server, and save both as the active profile.

    A token on the command line stays in the shell's history; a prompted one does not.
    """
    from dreadnode.config import Profile, Profiles, server_url

    if common.profile:
        raise InputError("`--profile` selects a saved profile; `--save-as` names the new one")
    server = common.server or os.environ.get("DREADNODE_SERVER")
    if not server:
        raise InputError("`--server` is missing, for instance `--server http://127.0.0.1:8799`")
    saved = Profiles.load()
    url = server_url(server)
    common = replace(common, server=url, api_key=token or common.api_key or _prompt(url))
    with common.client(scoped=False) as client:
        user = client.get_user()
        complete_scope(client)
        scope = client.scope
        _require("organization", scope.organization, client.list_organizations())
        _require("workspace", scope.workspace, client.list_workspaces())
        saved.save(
            Profile(
                name=save_as or urlsplit(url).netloc,
                url=url,
                api_key=common.api_key,
                organization=scope.organization,
                workspace=scope.workspace,
                username=user.username,
            )
        )
        say(f"saved profile `{saved.active}` in {saved.path}")
        _show(common, client, saved.active)


def logout(
    name: Annotated[str | None, Parameter(help="Profile; else the active one.")] = None, /
) -> None:
    """Delete a profile; its token stays valid until it is revoked."""
    from dreadnode.config import Profiles

    saved = Profiles.load()
    name = name or saved.active
    if name is None:
        raise ConfigError(f"no profile in {saved.path} is active; name one")
    was_active = name == saved.active
    profile = saved.remove(name)
    say(f"deleted profile `{profile.name}` of {profile.url}")
    if was_active and saved.active:
        say(f"profile `{saved.active}` is active now")
    if profile.api_key:
        hint("its token is still valid; `dn token revoke` revokes one")


def whoami(*, common: Common = DEFAULT) -> None:
    """Show the server, the user and the role of the token; fails if the token is not valid."""
    with common.client(scoped=False) as client:
        complete_scope(client)
        _show(common, client, common.connection().profile)


def _show(common: Common, client: ApiClient, profile: str | None) -> None:
    user = client.get_user()
    organizations = {each.key: each for each in client.list_organizations()}
    organization = organizations.get(client.scope.organization or "")
    common.out.fields(
        {
            "server": client.server,
            "user": user.username,
            "email": user.email_address,
            "role": organization.role if organization else None,
            "organization": client.scope.organization,
            "workspace": client.scope.workspace,
            "profile": profile,
        }
    )


def _require(
    kind: str, key: str | None, existing: Sequence[Organization] | Sequence[Workspace]
) -> None:
    """Refuse a scope that does not exist."""
    keys = [each.key for each in existing]
    if key not in keys:
        known = ", ".join(f"`{each}`" for each in keys) or "none"
        raise ConfigError(f"`{key}` is not {_ARTICLES[kind]} of this token; it has: {known}")


_ARTICLES = {"organization": "an organization", "workspace": "a workspace"}


def _prompt(url: str) -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        token = getpass(f"token for {url}: ")
    else:
        token = sys.stdin.readline()
    if not token.strip():
        raise InputError("no token was given")
    return token.strip()
