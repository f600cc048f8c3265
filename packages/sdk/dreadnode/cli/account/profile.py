"""`dn profile list | use`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from dreadnode.cli.output import Output, say, table

app = App(name="profile", help="List saved servers and switch between them.", version_flags=[])

_NAMES = ("active", "profile", "server", "user", "organization", "workspace")


@app.command(name="list")
def list_profiles(
    *,
    json_output: Annotated[bool, Parameter(name="--json", help="Print data as JSON.")] = False,
) -> None:
    """List the saved profiles; `dn login` adds one."""
    from dreadnode.config import Profiles

    saved = Profiles.load()
    profiles = [saved.get(name) for name in saved.names]
    rows = [
        {
            "active": each.name == saved.active,
            "profile": each.name,
            "server": each.url,
            "user": each.username,
            "organization": each.organization,
            "workspace": each.workspace,
        }
        for each in profiles
    ]
    if json_output:
        Output(as_json=True).json(rows)
    elif rows:
        cells = [
            ["*" if row["active"] else "", *(str(row[n] or "") for n in _NAMES[1:])] for row in rows
        ]
        Output().text(*table(cells, ["", *_NAMES[1:]]))
    else:
        say(f"no profiles in {saved.path}; `dn login` adds one")


@app.command
def use(
    name: Annotated[str, Parameter(help="Name of the profile: see `dn profile list`.")], /
) -> None:
    """Make a profile the active one, which all commands use by default."""
    from dreadnode.config import Profiles

    profile = Profiles.load().activate(name)
    say(f"profile `{profile.name}` is active: {profile.url}")
