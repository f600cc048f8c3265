"""The trace of a session as a file, read from the journal of an engine that may be running."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from dreadnode_engine.errors import Refused
from dreadnode_engine.service.traces import open_trace, write_trace
from dreadnode_engine.settings import TraceSettings


def export_trace(settings: TraceSettings) -> tuple[str, Path]:
    """Write the trace that SETTINGS name; return the id of its session, and the file."""
    journal = settings.data_dir / "engine.sqlite3"
    if not journal.is_file():
        raise Refused(f"{settings.data_dir} has no journal of an engine (`{journal.name}`)")
    try:
        with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            # One transaction, so that all pages show the same moment.
            db.execute("BEGIN")
            return _export(db, settings)
    except sqlite3.Error as problem:
        raise Refused(
            f"{journal} cannot be read ({problem}); if another version of the engine wrote it, "
            "start this one on it once"
        ) from problem


def _export(db: sqlite3.Connection, settings: TraceSettings) -> tuple[str, Path]:
    trace = open_trace(db, settings.session)
    to = settings.to or Path.cwd() / f"{trace.session.id}.pftrace"
    if to.exists():
        raise Refused(f"{to} exists; name another file with `--to`")
    unfinished = to.with_name(f"{to.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w") as file:
            write_trace(db, trace, file)
        unfinished.rename(to)
    finally:
        unfinished.unlink(missing_ok=True)
    return trace.session.id, to
