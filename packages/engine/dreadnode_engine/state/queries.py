"""The journal's SQL: one statement or two in each function.

Every function takes the connection first; the journal runs it inside a transaction.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from dreadnode_engine.state.records import Checkpoint, Request, Run, Sampler, Session, Upload

Record = Session | Run | Sampler | Request | Checkpoint | Upload
R = TypeVar("R", bound=Record)
_TABLES: Mapping[type, str] = {
    Session: "sessions",
    Run: "runs",
    Sampler: "samplers",
    Request: "requests",
    Checkpoint: "checkpoints",
    Upload: "uploads",
}


def insert(db: sqlite3.Connection, record: Record) -> None:
    """Write a new RECORD; one with the same key is an `sqlite3.IntegrityError`."""
    _write(db, "INSERT", record)


def replace(db: sqlite3.Connection, record: Record) -> None:
    """Write RECORD, over one with the same key if there is one."""
    _write(db, "INSERT OR REPLACE", record)


def _write(db: sqlite3.Connection, verb: str, record: Record) -> None:
    values = vars(record)
    marks = ", ".join(f":{name}" for name in values)
    table = _TABLES[type(record)]
    # The names come from the dataclasses above, never from a client.
    db.execute(f"{verb} INTO {table} ({', '.join(values)}) VALUES ({marks})", values)


def every(db: sqlite3.Connection, kind: type[R]) -> list[R]:
    """Return every record of KIND, oldest first."""
    return _select(db, kind, "ORDER BY created")


def find(db: sqlite3.Connection, kind: type[R], key: str, columns: str = "*") -> R | None:
    """Return the record of KIND with KEY, if there is one."""
    return next(iter(_select(db, kind, f"WHERE {_key(kind)} = ?", (key,), columns)), None)


def update(db: sqlite3.Connection, kind: type[Any], key: str, /, **values: Any) -> None:
    """Change the columns VALUES of the record of KIND with KEY."""
    names = ", ".join(f"{name} = ?" for name in values)
    query = f"UPDATE {_TABLES[kind]} SET {names} WHERE {_key(kind)} = ?"  # noqa: S608
    db.execute(query, (*values.values(), key))


def delete(db: sqlite3.Connection, kind: type[Any], key: str) -> None:
    """Delete the record of KIND with KEY."""
    db.execute(f"DELETE FROM {_TABLES[kind]} WHERE {_key(kind)} = ?", (key,))  # noqa: S608


def _select(
    db: sqlite3.Connection,
    kind: type[R],
    rest: str,
    values: Sequence[object] | Mapping[str, object] = (),
    columns: str = "*",
) -> list[R]:
    """Return the records of KIND that REST, the end of a SELECT statement, describes."""
    # The names are our own, never a client's; what a client names is in VALUES.
    rows = db.execute(f"SELECT {columns} FROM {_TABLES[kind]} {rest}", values)  # noqa: S608
    return [kind(**row) for row in rows]


def _key(kind: type[Any]) -> str:
    return "path" if kind is Checkpoint else "id"


_WITHOUT_BODY = ", ".join("NULL AS body" if f.name == "body" else f.name for f in fields(Request))

_WITHOUT_BOTH = _WITHOUT_BODY.replace(" result,", " NULL AS result,")


def find_result(db: sqlite3.Connection, request_id: str) -> Request | None:
    """Return the request REQUEST_ID without its body, if it was ever accepted."""
    return find(db, Request, request_id, _WITHOUT_BODY)


def find_body(db: sqlite3.Connection, request_id: str) -> bytes | None:
    """Return the body of REQUEST_ID, if it is kept."""
    row = db.execute("SELECT body FROM requests WHERE id = ?", (request_id,)).fetchone()
    return row["body"] if row else None


def queued_requests(db: sqlite3.Connection) -> list[Request]:
    """Return the requests that are accepted and not done, in order and without their bodies."""
    rest = "WHERE state = 'queued' ORDER BY queue, seq"
    return _select(db, Request, rest, columns=_WITHOUT_BODY)


def finished_seqs(db: sqlite3.Connection) -> dict[str, set[int]]:
    """Return the sequence numbers that have been done or have failed, by queue."""
    found: dict[str, set[int]] = {}
    rows = db.execute(
        "SELECT queue, seq FROM requests WHERE state != 'queued' AND queue IN (SELECT id FROM runs)"
    )
    for row in rows:
        found.setdefault(row["queue"], set()).add(row["seq"])
    return found


def is_known(db: sqlite3.Connection, name: str) -> bool:
    """Whether NAME is a session, run, sampler, request or upload, or a run with checkpoints."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM requests WHERE id = :name)"
        " OR EXISTS (SELECT 1 FROM sessions WHERE id = :name)"
        " OR EXISTS (SELECT 1 FROM runs WHERE id = :name)"
        " OR EXISTS (SELECT 1 FROM samplers WHERE id = :name)"
        " OR EXISTS (SELECT 1 FROM checkpoints WHERE run = :name)"
        " OR EXISTS (SELECT 1 FROM uploads WHERE id = :name)"
    )
    return bool(db.execute(query, {"name": name}).fetchone()[0])


def expired_checkpoints(db: sqlite3.Connection, now: float) -> list[Checkpoint]:
    """Return the checkpoints whose time to live is over at NOW."""
    return _select(db, Checkpoint, "WHERE expires <= ?", (now,))


def to_replay(db: sqlite3.Connection, queue: str, after: int, before: int) -> list[Request]:
    """Return the operations of QUEUE that changed its run between two numbers, without bodies."""
    rest = (
        "WHERE queue = ? AND seq > ? AND seq < ? AND state = 'done'"
        " AND kind IN ('forward_backward', 'optim_step') AND body IS NOT NULL ORDER BY seq"
    )
    return _select(db, Request, rest, (queue, after, before), _WITHOUT_BODY)


def finish(
    db: sqlite3.Connection,
    request: Request,
    media: str,
    result: bytes,
    *,
    keep_body: bool,
    state: str = "done",
) -> None:
    """Record that REQUEST was done, or that it has failed."""
    request.state, request.media, request.result = state, media, result
    request.finished = time.time()
    columns = ("state", "media", "result", "finished", "started", "work")
    values = {name: getattr(request, name) for name in columns}
    if not keep_body:
        values["body"] = None
    update(db, Request, request.id, **values)


def fail(db: sqlite3.Connection, request: Request, message: str, category: str) -> None:
    """Record that REQUEST failed and changed nothing."""
    result = json.dumps({"error": message, "category": category}).encode()
    finish(db, request, "application/json", result, keep_body=False, state="failed")


def drop(db: sqlite3.Connection, request: Request) -> None:
    """Record that REQUEST was dropped; it is accepted again when it is sent again."""
    request.state, request.finished = "dropped", time.time()
    update(db, Request, request.id, state=request.state, finished=request.finished, body=None)


def replace_weights(db: sqlite3.Connection, run: str, weights: str) -> None:
    """Make every inflight sampler of RUN sample from WEIGHTS."""
    db.execute("UPDATE samplers SET weights = ? WHERE run = ? AND inflight", (weights, run))


def set_snapshot(db: sqlite3.Connection, run: str, seq: int) -> None:
    """Record the snapshot of RUN after SEQ; operations up to SEQ are not replayed again."""
    update(db, Run, run, snapshot=seq)
    db.execute(
        "UPDATE requests SET body = NULL WHERE queue = ? AND seq <= ? AND state != 'queued'",
        (run, seq),
    )


def touch(db: sqlite3.Connection, table: str, ids: Iterable[tuple[float, str]]) -> None:
    """Write the time of last use of rows of TABLE (sessions, runs or samplers)."""
    column = "seen" if table == "sessions" else "used"
    db.executemany(f"UPDATE {table} SET {column} = ? WHERE id = ?", ids)  # noqa: S608


def mark_read(db: sqlite3.Connection, read: Iterable[tuple[float, str]]) -> None:
    """Write when results were first fetched."""
    db.executemany("UPDATE requests SET read = ? WHERE id = ? AND read IS NULL", read)


def delete_results(db: sqlite3.Connection, *, finished_before: float, read_before: float) -> None:
    """Delete results that are old or were fetched a while ago; the requests stay known."""
    db.execute(
        "UPDATE requests SET result = NULL WHERE state != 'queued' AND result IS NOT NULL"
        " AND (finished < ? OR read < ?)",
        (finished_before, read_before),
    )


_QUEUES = (
    "queue IN (SELECT id FROM runs WHERE session = :session"
    " UNION ALL SELECT id FROM samplers WHERE session = :session)"
)


def find_session(db: sqlite3.Connection, session: str | None) -> Session | None:
    """Return the session of that id, or the newest one for None."""
    rest = "WHERE :id IS NULL OR id = :id ORDER BY created DESC LIMIT 1"
    return next(iter(_select(db, Session, rest, {"id": session})), None)


def queues_of(db: sqlite3.Connection, session: str) -> tuple[list[Run], list[Sampler]]:
    """Return the runs and samplers of SESSION, oldest first."""
    rest = "WHERE session = ? ORDER BY created"
    return _select(db, Run, rest, (session,)), _select(db, Sampler, rest, (session,))


def last_request(db: sqlite3.Connection, session: str, now: float) -> float:
    """Return when the last request of SESSION ended: NOW if one is open, 0 if there is none."""
    query = f"SELECT max(coalesce(finished, :now)) AS ended FROM requests WHERE {_QUEUES}"  # noqa: S608
    row = db.execute(query, {"session": session, "now": now}).fetchone()
    return float(row["ended"] or 0.0)


PAGE = 1000
"""Requests that are read at once."""


def requests_of(db: sqlite3.Connection, session: str, after: tuple[str, int]) -> list[Request]:
    """Return the next requests of SESSION that follow a queue and number, in this order.

    They come without bodies and results.
    """
    rest = f"WHERE {_QUEUES} AND (queue, seq) > (:queue, :seq) ORDER BY queue, seq LIMIT :limit"
    values = {"session": session, "queue": after[0], "seq": after[1], "limit": PAGE}
    return _select(db, Request, rest, values, _WITHOUT_BOTH)


def delete_sampler(db: sqlite3.Connection, sampler: str) -> None:
    """Delete a sampler and the requests that went to it."""
    delete(db, Sampler, sampler)
    db.execute("DELETE FROM requests WHERE queue = ?", (sampler,))


def delete_session(db: sqlite3.Connection, session: str) -> None:
    """Delete a session with its runs, samplers and requests."""
    for table in ("runs", "samplers"):
        queues = f"SELECT id FROM {table} WHERE session = ?"  # noqa: S608 (two fixed names)
        db.execute(f"DELETE FROM requests WHERE queue IN ({queues})", (session,))  # noqa: S608
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))  # noqa: S608
    delete(db, Session, session)


def checkpoints(
    db: sqlite3.Connection, *, run: str | None = None, owner: str | None = None
) -> list[Checkpoint]:
    """Return checkpoints, newest first, of one run, of one owner, or all."""
    rest = (
        "WHERE (:run IS NULL OR run = :run) AND (:owner IS NULL OR owner = :owner)"
        " ORDER BY created DESC, path"
    )
    return _select(db, Checkpoint, rest, {"run": run, "owner": owner})
