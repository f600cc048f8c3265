"""`dn train list --watch`: a table of jobs that stays up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dreadnode.cli import views
from dreadnode.cli.output import Output, now, when
from dreadnode.cli.train.progress import is_terminal
from dreadnode.errors import ConnectionFailed, InputError, ServerError
from dreadnode.lazy_types import jobs

SECONDS = 2.0
"""Seconds between two requests."""


def watch_list(fetch: Callable[[], jobs.TrainingJobPage], out: Output) -> None:
    """Show the jobs that FETCH returns, again and again, until Ctrl-C.

    Raises:
        InputError: The output is not a terminal, or JSON is asked for.
    """
    if out.as_json or not (is_terminal() and sys.stdout.isatty()):
        raise InputError(
            "`--watch` shows a table in a terminal; in a script, `dn train watch JOB` follows a job"
        )
    shown = Text("waiting for the server", no_wrap=True)
    # In the alternate screen a long list replaces itself, and the shell's lines come back.
    with Live(shown, console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    shown = _table(fetch(), out)
                    note = Text(f"\nas of {when(now())[11:]}; Ctrl-C ends", style="dim")
                except (ConnectionFailed, ServerError):
                    note = Text("\nthe server does not respond; trying again", style="bold yellow")
                live.update(Text.assemble(shown, "\n", note, no_wrap=True), refresh=True)
                time.sleep(SECONDS)
        except KeyboardInterrupt:
            return


def _table(page: jobs.TrainingJobPage, out: Output) -> Text:
    if not page.items:
        return Text("no jobs")
    lines = out.lines(page.items, views.job_rows(page.items), shrink=views.SHRINK)
    more = page.total - len(page.items)
    return Text("\n".join([*lines, *([f"and {more:,} more"] if more > 0 else [])]))
