"""Checkpoints: listed, published, given a time to live, and deleted."""

import asyncio
import logging
import shutil
import sqlite3
import time

from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import MASTER, Principal
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import check_ttl, parse_path
from dreadnode_engine.state.records import Checkpoint

log = logging.getLogger(__name__)


async def list_checkpoints(
    engine: Engine, who: Principal, run: str | None = None
) -> list[Checkpoint]:
    """Return the checkpoints that WHO may change and that have not expired, newest first."""
    return await engine.context.journal.do(unexpired, who, run)


def unexpired(db: sqlite3.Connection, who: Principal, run: str | None = None) -> list[Checkpoint]:
    """Return the checkpoints in a journal that WHO may change and that have not expired."""
    owner = None if who.subject == MASTER else who.subject
    now = time.time()
    found = queries.checkpoints(db, run=run, owner=owner)
    return [c for c in found if c.expires is None or c.expires > now]


async def delete_checkpoint(engine: Engine, found: Checkpoint) -> None:
    """Delete a checkpoint and its files."""
    # Expired first: after a kill in between, nobody reads it and the clean-up deletes the rest.
    await engine.context.journal.do(queries.update, Checkpoint, found.path, expires=0.0)
    folder = engine.context.files.checkpoint(parse_path(found.path))
    await asyncio.to_thread(shutil.rmtree, folder, True)
    if folder.exists():
        # Without its record nobody would ever delete the rest; the clean-up tries again.
        log.warning("the files of %s cannot be deleted; it is tried again", found.path)
        return
    await engine.context.journal.do(queries.delete, Checkpoint, found.path)


async def set_ttl(engine: Engine, found: Checkpoint, seconds: int | None) -> None:
    """Let a checkpoint expire in SECONDS; None keeps it until it is deleted."""
    if seconds is not None:
        check_ttl(seconds)
    expires = time.time() + seconds if seconds is not None else None
    await engine.context.journal.do(queries.update, Checkpoint, found.path, expires=expires)
