"""`dn login | logout | whoami`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say
from dreadnode.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.wire import User


def login(
    key: Annotated[
        str | None, Parameter(help="The key; if not given, it is asked for or read from stdin.")
    ] = None,
    /,
    *,
    save_as: Annotated[
        str | None, Parameter(help="The profile's name, else the server's host.")
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Try a key on a server, and save both as the active profile.

    A key on the command line stays in the shell's history; one that is asked for does not.
    """
    from dreadnode.config import Profile, Profiles, server_url

    if common.profile:
        raise InputError("`--profile` chooses a saved profile; `--save-as` names the new one")
    server = common.server or os.environ.get("DREADNODE_SERVER")
    if not server:
        raise InputError("say which server with `--server`, for instance http://127.0.0.1:8799")
    saved = Profiles.load()
    url = server_url(server)
    common = replace(common, server=url, api_key=key or common.api_key or _ask_for_key(url))
    with common.client(scoped=False) as client:
        user = client.get_user()
        common.complete(client)
        scope = client.scope
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
        _show(common, client, user, saved.active)


def logout(
    name: Annotated[str | None, Parameter(help="The profile, else the active one.")] = None, /
) -> None:
    """Delete a profile; its token stays valid until it is revoked."""
    from dreadnode.config import Profiles

    saved = Profiles.load()
    name = name or saved.active
    if name is None:
        raise ConfigError(f"no profile is active in {saved.path}; name one")
    profile = saved.remove(name)
    say(f"forgot profile `{profile.name}` of {profile.url}")


def whoami(*, common: Common = DEFAULT) -> None:
    """Show the server, the user and the role; fails if the token is rejected."""
    with common.client(scoped=False) as client:
        user = client.get_user()
        common.complete(client)
        _show(common, client, user, common.connection().profile)


def _show(common: Common, client: ApiClient, user: User, profile: str | None) -> None:
    common.out.fields(
        {
            "server": client.server,
            "user": user.username,
            "email": user.email_address,
            "organization": client.scope.organization,
            "workspace": client.scope.workspace,
            "profile": profile,
        }
    )


def _ask_for_key(url: str) -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        key = getpass(f"key for {url}: ")
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise InputError("no key was given")
    return key.strip()
