"""The journal: one SQLite file with every accepted request, so that a kill loses nothing.

A request is written here before it is acknowledged. One thread owns the connection. It runs all
waiting writes in one transaction and returns to the callers after the commit, so that a hundred
requests cost one flush to disk.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, seen REAL NOT NULL,
    finished REAL, idempotency_key TEXT, user_metadata TEXT, display_name TEXT);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, session TEXT NOT NULL, owner TEXT NOT NULL, base_model TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, rank INTEGER NOT NULL, seed INTEGER NOT NULL,
    train_mlp INTEGER NOT NULL, train_attn INTEGER NOT NULL, train_unembed INTEGER NOT NULL,
    user_metadata TEXT, snapshot INTEGER, unloaded INTEGER NOT NULL DEFAULT 0,
    base_fingerprint TEXT);
CREATE TABLE IF NOT EXISTS samplers (
    id TEXT PRIMARY KEY, session TEXT NOT NULL, owner TEXT NOT NULL, base_model TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, model_path TEXT, weights TEXT, run TEXT,
    inflight INTEGER NOT NULL DEFAULT 0, base_fingerprint TEXT);
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, queue TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
    owner TEXT NOT NULL, digest BLOB NOT NULL, body BLOB, state TEXT NOT NULL,
    media TEXT, result BLOB, created REAL NOT NULL, finished REAL,
    read REAL, lost INTEGER NOT NULL DEFAULT 0, body_bytes INTEGER NOT NULL DEFAULT 0,
    started REAL, work TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS requests_in_order ON requests (queue, seq);
CREATE INDEX IF NOT EXISTS requests_open ON requests (queue, seq) WHERE state = 'queued';
CREATE TABLE IF NOT EXISTS checkpoints (
    path TEXT PRIMARY KEY, run TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, created REAL NOT NULL, bytes INTEGER NOT NULL,
    base_model TEXT NOT NULL, rank INTEGER NOT NULL, train_mlp INTEGER NOT NULL,
    train_attn INTEGER NOT NULL, train_unembed INTEGER NOT NULL,
    expires REAL, public INTEGER NOT NULL DEFAULT 0, user_metadata TEXT,
    base_fingerprint TEXT);
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, base_model TEXT NOT NULL, created REAL NOT NULL,
    expires REAL NOT NULL, rank INTEGER NOT NULL, seed INTEGER NOT NULL,
    train_mlp INTEGER NOT NULL, train_attn INTEGER NOT NULL, train_unembed INTEGER NOT NULL,
    base_fingerprint TEXT);
CREATE INDEX IF NOT EXISTS checkpoints_by_run ON checkpoints (run);
CREATE INDEX IF NOT EXISTS checkpoints_by_expiry ON checkpoints (expires);
CREATE INDEX IF NOT EXISTS requests_with_result ON requests (finished) WHERE result IS NOT NULL;
CREATE INDEX IF NOT EXISTS samplers_by_session ON samplers (session);
CREATE INDEX IF NOT EXISTS runs_by_session ON runs (session);
"""

_ADDED = (
    ("samplers", "inflight", "INTEGER NOT NULL DEFAULT 0"),
    ("requests", "lost", "INTEGER NOT NULL DEFAULT 0"),
    ("requests", "body_bytes", "INTEGER NOT NULL DEFAULT 0"),
    ("requests", "started", "REAL"),
    ("requests", "work", "TEXT"),
    ("runs", "base_fingerprint", "TEXT"),
    ("samplers", "base_fingerprint", "TEXT"),
    ("checkpoints", "base_fingerprint", "TEXT"),
)
"""Columns that a journal of an earlier version may lack."""

_Work = tuple[Callable[[sqlite3.Connection], object], Future[object]]


class Journal:
    """Runs functions on the one connection: each is atomic, and durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._opened: Future[None] = Future()
        self._thread.start()
        self._opened.result()

    async def do(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs
    ) -> T:
        """Run WORK with these arguments from the event loop; it is on disk on return."""
        return await asyncio.wrap_future(self._enqueue(lambda db: work(db, *args, **more)))

    def do_now(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **more: P.kwargs
    ) -> T:
        """Run WORK with these arguments from any other thread; it is on disk on return."""
        return self._enqueue(lambda db: work(db, *args, **more)).result()

    def close(self) -> None:
        """Finish the waiting functions and close the file."""
        self._waiting.put(None)
        self._thread.join()

    def _enqueue(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._waiting.put((work, future))  # type: ignore[arg-type]
        return future

    def _serve(self) -> None:
        try:
            connection = open_journal(self._path)
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        closing = False
        while not closing:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            closing = None in group
            _commit(connection, [work for work in group if work is not None])
        connection.close()


def open_journal(path: Path) -> sqlite3.Connection:
    """Return a connection to the journal at PATH, made or brought up to date if need be."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: an acknowledged request also survives a power cut, not only the end of the process.
    connection.execute("PRAGMA synchronous = FULL")
    _rename_early_columns(connection)
    connection.executescript(_SCHEMA)
    for table, column, kind in _ADDED:
        known = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column not in known:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    return connection


def _rename_early_columns(connection: sqlite3.Connection) -> None:
    """Rename the column `lane` of an early version to `queue`; its indexes follow."""
    if "lane" in {row["name"] for row in connection.execute("PRAGMA table_info(requests)")}:
        connection.execute("ALTER TABLE requests RENAME COLUMN lane TO queue")


def _commit(connection: sqlite3.Connection, group: list[_Work]) -> None:
    """Run GROUP in one transaction; a function that raises is rolled back alone."""
    outcomes: list[tuple[Future[object], object, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work, future in group:
            connection.execute("SAVEPOINT one")
            try:
                outcomes.append((future, work(connection), None))
            except Exception as error:
                connection.execute("ROLLBACK TO one")
                outcomes.append((future, None, error))
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        outcomes = [(future, None, error) for _, future in group]
    for future, value, problem in outcomes:
        # A caller that was cancelled while it waited takes no result.
        if not future.set_running_or_notify_cancel():
            continue
        if problem is None:
            future.set_result(value)
        else:
            future.set_exception(problem)
