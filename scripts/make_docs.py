"""Write everything that is generated from the code.

From the API's request models: the schema of job files, the SDK's types, the flags of `dn train` and
the tables of settings. From the SDK's async client: the sync client. From the commands: the CLI
reference. From the routes: the OpenAPI description. ``--check`` names the file and the line of what
differs.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from cli_flags import cli_flags
from dreadnode_api.training.job_settings import kinds
from job_schema import job_schema
from rich.console import Console
from sdk_types import sdk_types
from server_tables import engine_table, server_table
from settings_tables import job_tables, named_in, with_tables
from sync_client import sync_modules

if TYPE_CHECKING:
    from cyclopts import App

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 88
SDK = "packages/sdk/dreadnode"
INTRODUCTION = """\
# The `dn` command

Written by `make docs` from the code: do not edit.

Data goes to stdout and messages to stderr; `--json` prints data as JSON. The exit code is 0, or
1 when something was refused or failed, 2 for wrong arguments, 130 after Ctrl-C.

Flags choose the server and the token, else the environment does (`DREADNODE_SERVER`,
`DREADNODE_API_KEY`, `DREADNODE_ORGANIZATION`, `DREADNODE_WORKSPACE`), else the active profile of
`~/.dreadnode/config.yaml` (`DREADNODE_CONFIG_DIR` names another folder). A token is sent only to
the server that it was given for. There is no default server.
"""


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of everything that is generated.

    The modules of the SDK come first: the CLI reference is made by importing them.
    """
    yield from sync_modules()
    found = kinds()
    for kind in found:
        yield f"{SDK}/training/{kind.name}_request.py", sdk_types(kind)
    for module, text in cli_flags(found):
        yield f"{SDK}/cli/train/{module}.py", text
    yield f"{SDK}/training/job_schema.json", job_schema(found)
    yield from _tables(job_tables(found) | server_table() | engine_table())
    yield "docs/reference/cli.md", cli()
    yield "docs/reference/openapi.json", openapi()
    from reference_pages import engine_commands, python_client

    yield "docs/reference/python-client.md", python_client()
    yield "docs/reference/engine.md", engine_commands()


def _tables(tables: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each page of the documentation that has a table of settings."""
    placed: set[str] = set()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if names := named_in(page):
            placed |= names
            yield page.relative_to(ROOT).as_posix(), with_tables(page, tables)
    if missing := sorted(set(tables) - placed):
        raise SystemExit(f"error: no page of docs/ has the table `{missing[0]}` between markers")


def cli() -> str:
    """Return the page of the command line: the help of each command, as it is shown."""
    from dreadnode.cli.main import app

    return "\n".join([INTRODUCTION, *_sections(app, app, [])])


def _sections(app: App, group: App, words: list[str]) -> Iterator[str]:
    """Yield a section for each command of GROUP, which WORDS lead to."""
    for name, command in group.resolved_commands().items():
        if name.startswith("-") or not command.show:
            continue
        path = [*words, name]
        command.resolved_commands()  # help has no words for what has not been imported
        shown = io.StringIO()
        app.help_print(path, console=Console(file=shown, width=WIDTH))
        yield f"{'#' * (len(path) + 1)} `dn {' '.join(path)}`\n"
        yield f"```text\n{shown.getvalue().strip()}\n```\n"
        yield from _sections(app, command, path)


def openapi() -> str:
    """Return the API's description of itself."""
    from dreadnode_api.main import create_app
    from dreadnode_api.settings import Settings

    settings = Settings(data_dir=Path("data"))
    return json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False) + "\n"


def _first_difference(old: str, new: str) -> int:
    """Return the number of the first line in which the texts differ."""
    lines = zip_longest(old.splitlines(), new.splitlines())
    return next((number for number, (a, b) in enumerate(lines, 1) if a != b), 1)


def main(arguments: list[str]) -> int:
    """Write the pages that are stale; with ``--check`` only name them, and return 1 if any is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, text in pages():
        page = ROOT / name
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        if old == text:
            continue
        stale += 1
        if check:
            print(f"{name}:{_first_difference(old, text)}: differs from the code: run `make docs`")
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
