"""`dn server`: maintenance on the server's own machine, and its command `backup`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from dreadnode.cli.output import Output, count, hint, say
from dreadnode.cli.server.serve import default_data_dir
from dreadnode.errors import ServeError
from dreadnode.local_server.python import ISOLATED, module_command

app = App(name="server", help="Maintain a server, on its own machine.", version_flags=[])
app.command("dreadnode.cli.server.disk:disk")

DataDir = Annotated[Path | None, Parameter(help="Data directory; else `~/.local/share/dreadnode`.")]
DatabaseUrl = Annotated[
    str | None, Parameter(help="Database URL; else SQLite in the data directory.")
]
Json = Annotated[bool, Parameter(name="--json", help="Print data as JSON.")]


def run_service(
    arguments: Sequence[str], data_dir: Path | None, database_url: str | None, what: str
) -> dict[str, Any]:
    """Run a command of the service on a data directory, and return what it prints.

    Raises:
        ServeError: There is no such directory, or the command fails.
    """
    source = (data_dir or default_data_dir()).expanduser().absolute()
    if not source.is_dir():
        raise ServeError(f"there is no data directory {source}; name it with `--data-dir`")
    environment = {**os.environ, **ISOLATED, "DREADNODE_DATA_DIR": str(source)}
    if database_url:
        environment["DREADNODE_DATABASE_URL"] = database_url
    ran = subprocess.run(
        [*module_command("dreadnode_api"), *arguments],
        env=environment,
        cwd=source,
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        lines = ran.stderr.strip().splitlines() or [f"{what} failed without a message"]
        raise ServeError(lines[-1].removeprefix("error: "))
    printed: dict[str, Any] = json.loads(ran.stdout)
    return printed


@app.command
def backup(
    target: Annotated[Path, Parameter(help="A folder that does not exist yet.")],
    /,
    *,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json_output: Json = False,
) -> None:
    """Copy everything that a server keeps into a folder, while it runs.

    The copy has its databases, datasets, job files, checkpoints and keys, without logs and
    converted models. `pg_dump` saves a PostgreSQL database; if it fails, the folder is named
    TARGET.incomplete and the exit code is 1.
    """
    made = run_service(
        ["backup", str(target.expanduser().absolute())], data_dir, database_url, "the backup"
    )
    if json_output:
        Output(as_json=True).json(made)
    else:
        Output().text(made["target"])
        say(f"{count(made['files'], 'file')}, {made['bytes']:,} bytes")
        if made["vanished"]:
            say(f"{count(len(made['vanished']), 'file')} were deleted during the copy")
    if made["note"]:
        raise ServeError(made["note"])
    if not json_output:
        hint(
            "to restore it, copy it and start `dn serve --data-dir` on the copy of "
            f"{made['target']}"
        )
