"""`dn server backup`: what whoever runs a server does on its machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dreadnode.cli.output import Output, count, hint, say
from dreadnode.cli.server.serve import default_data_dir
from dreadnode.errors import ServeError

app = App(name="server", help="Look after a server, on its own machine.", version_flags=[])


@app.command
def backup(
    target: Annotated[Path, Parameter(help="A folder that does not exist yet.")],
    /,
    *,
    data_dir: Annotated[
        Path | None, Parameter(help="The server's; else `~/.local/share/dreadnode`.")
    ] = None,
    database_url: Annotated[
        str | None, Parameter(help="Its database, if not SQLite in the data directory.")
    ] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="Show data as JSON.")] = False,
) -> None:
    """Copy everything that a server keeps into a folder, while it runs.

    That is its databases, datasets, the files of jobs, checkpoints and keys; logs, and models that
    are converted again at need, are left out. A PostgreSQL database is saved by `pg_dump`.
    """
    source = (data_dir or default_data_dir()).expanduser().absolute()
    environment = {**os.environ, "DREADNODE_DATA_DIR": str(source)}
    if database_url:
        environment["DREADNODE_DATABASE_URL"] = database_url
    folder = target.expanduser().absolute()
    ran = subprocess.run(
        [sys.executable, "-m", "dreadnode_api", "backup", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        words = ran.stderr.strip().splitlines() or ["the service did not say why"]
        raise ServeError(words[-1].removeprefix("error: "))
    made = json.loads(ran.stdout)
    if json_output:
        Output(as_json=True).json(made)
        return
    Output().text(made["target"])
    say(f"{count(made['files'], 'file')}, {made['bytes']:,} bytes")
    if made["vanished"]:
        say(f"{count(len(made['vanished']), 'file')} were deleted meanwhile and are not in it")
    if made["note"]:
        say(f"warning: {made['note']}")
    hint(f"to restore it, copy it and start `dn serve --data-dir` on the copy of {made['target']}")
