"""Write the CLI reference, the OpenAPI description and the schema of job files from the code.

``--check`` says if they are stale.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from dreadnode.cli.main import app
from dreadnode_api.main import create_app
from dreadnode_api.settings import Settings
from job_schema import job_schema
from reference_pages import engine_commands, python_client
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 88
JOB_SCHEMA = "packages/sdk/dreadnode/training/job_schema.json"
INTRODUCTION = """\
# The `dn` command

Written by `make docs` from the code: do not edit.

Data goes to stdout and talk to stderr; `--json` shows data as JSON. The exit code is 0, or 1 when
something was refused or failed, 2 for wrong arguments, 130 after Ctrl-C.

Which server is asked, and as whom, is said by flags, else by the environment (`DREADNODE_SERVER`,
`DREADNODE_API_KEY`, `DREADNODE_ORGANIZATION`, `DREADNODE_WORKSPACE`), else by the active profile of
`~/.dreadnode/config.yaml` (`DREADNODE_CONFIG_DIR` names another folder). A key is only ever sent to
the server that it was given for, and there is no server by default.
"""


def cli() -> str:
    """Return the page of the command line: the help of each command, as it is shown."""
    return "\n".join([INTRODUCTION, *_sections(app, [])])


def _sections(group: App, words: list[str]) -> Iterator[str]:
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
        yield from _sections(command, path)


def openapi() -> str:
    """Return the API's description of itself."""
    settings = Settings(data_dir=Path("data"))
    return json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages that are stale; with ``--check`` only name them, and return 1 if any is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    stale = 0
    pages = {
        "docs/reference/cli.md": cli(),
        "docs/reference/openapi.json": openapi(),
        "docs/reference/python-client.md": python_client(),
        "docs/reference/engine.md": engine_commands(),
        JOB_SCHEMA: job_schema(),
    }
    for name, text in pages.items():
        page = ROOT / name
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{name} differs from the code: run `make docs`")
        else:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
