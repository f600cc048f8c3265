"""The journal's SQL: one statement or two in each function.

Every function takes the connection first; the journal runs it inside a transaction.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from dreadnode_engine.state.records import Checkpoint, Request, Run, Sampler, Session, Upload

Record = Session | Run | Sampler | Request | Checkpoint | Upload
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


def all_sessions(db: sqlite3.Connection) -> list[Session]:
    """Return every session, oldest first."""
    return [Session(**row) for row in db.execute("SELECT * FROM sessions ORDER BY created")]


def all_runs(db: sqlite3.Connection) -> list[Run]:
    """Return every run, oldest first."""
    return [Run(**row) for row in db.execute("SELECT * FROM runs ORDER BY created")]


def all_samplers(db: sqlite3.Connection) -> list[Sampler]:
    """Return every sampler, oldest first."""
    return [Sampler(**row) for row in db.execute("SELECT * FROM samplers ORDER BY created")]


def find_request(db: sqlite3.Connection, request_id: str) -> Request | None:
    """Return the request REQUEST_ID with its body and result, if it was ever accepted."""
    row = db.execute("SELECT * FROM requests WHERE id = ?", (request_id,)).fetchone()
    return Request(**row) if row else None


_WITHOUT_BODY = ", ".join("NULL AS body" if f.name == "body" else f.name for f in fields(Request))

_WITHOUT_BOTH = _WITHOUT_BODY.replace(" result,", " NULL AS result,")


def find_result(db: sqlite3.Connection, request_id: str) -> Request | None:
    """Return the request REQUEST_ID without its body, if it was ever accepted."""
    query = f"SELECT {_WITHOUT_BODY} FROM requests WHERE id = ?"  # noqa: S608 (our own columns)
    row = db.execute(query, (request_id,)).fetchone()
    return Request(**row) if row else None


def find_body(db: sqlite3.Connection, request_id: str) -> bytes | None:
    """Return the body of REQUEST_ID, if it is kept."""
    row = db.execute("SELECT body FROM requests WHERE id = ?", (request_id,)).fetchone()
    return row["body"] if row else None


def queued_requests(db: sqlite3.Connection) -> list[Request]:
    """Return the requests that are accepted and not done, in order and without their bodies."""
    query = f"SELECT {_WITHOUT_BODY} FROM requests WHERE state = 'queued' ORDER BY queue, seq"  # noqa: S608
    return [Request(**row) for row in db.execute(query)]


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
    rows = db.execute("SELECT * FROM checkpoints WHERE expires <= ?", (now,))
    return [Checkpoint(**row) for row in rows]


def to_replay(db: sqlite3.Connection, queue: str, after: int, before: int) -> list[Request]:
    """Return the operations of QUEUE that changed its run between two numbers, without bodies."""
    query = (
        f"SELECT {_WITHOUT_BODY} FROM requests WHERE queue = ? AND seq > ? AND seq < ?"  # noqa: S608
        " AND state = 'done' AND kind IN ('forward_backward', 'optim_step')"
        " AND body IS NOT NULL ORDER BY seq"
    )
    return [Request(**row) for row in db.execute(query, (queue, after, before))]


def finish(
    db: sqlite3.Connection, request: Request, media: str, result: bytes, *, keep_body: bool
) -> None:
    """Record that REQUEST was done."""
    _finish(db, request, "done", media, result, keep_body=keep_body)


def fail(db: sqlite3.Connection, request: Request, message: str, category: str) -> None:
    """Record that REQUEST failed and changed nothing."""
    result = json.dumps({"error": message, "category": category}).encode()
    _finish(db, request, "failed", "application/json", result, keep_body=False)


def _finish(
    db: sqlite3.Connection,
    request: Request,
    state: str,
    media: str,
    result: bytes,
    *,
    keep_body: bool,
) -> None:
    request.state, request.media, request.result = state, media, result
    request.finished = time.time()
    db.execute(
        "UPDATE requests SET state = ?, media = ?, result = ?, finished = ?, started = ?, work = ?,"
        " body = CASE WHEN ? THEN body END WHERE id = ?",
        (
            *(state, media, result, request.finished, request.started, request.work),
            *(keep_body, request.id),
        ),
    )


def drop(db: sqlite3.Connection, request: Request) -> None:
    """Record that REQUEST was dropped; it is accepted again when it is sent again."""
    request.state = "dropped"
    request.finished = time.time()
    db.execute(
        "UPDATE requests SET state = 'dropped', finished = ?, body = NULL WHERE id = ?",
        (request.finished, request.id),
    )


def replace_weights(db: sqlite3.Connection, run: str, weights: str) -> None:
    """Make every inflight sampler of RUN sample from WEIGHTS."""
    db.execute("UPDATE samplers SET weights = ? WHERE run = ? AND inflight", (weights, run))


def set_snapshot(db: sqlite3.Connection, run: str, seq: int) -> None:
    """Record the snapshot of RUN after SEQ; operations up to SEQ are not replayed again."""
    db.execute("UPDATE runs SET snapshot = ? WHERE id = ?", (seq, run))
    db.execute(
        "UPDATE requests SET body = NULL WHERE queue = ? AND seq <= ? AND state != 'queued'",
        (run, seq),
    )


def set_unloaded(db: sqlite3.Connection, run: str) -> None:
    """Record that RUN takes no more operations."""
    db.execute("UPDATE runs SET unloaded = 1 WHERE id = ?", (run,))


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
    row = db.execute(
        "SELECT * FROM sessions WHERE :id IS NULL OR id = :id ORDER BY created DESC LIMIT 1",
        {"id": session},
    ).fetchone()
    return Session(**row) if row else None


def queues_of(db: sqlite3.Connection, session: str) -> tuple[list[Run], list[Sampler]]:
    """Return the runs and samplers of SESSION, oldest first."""
    runs = db.execute("SELECT * FROM runs WHERE session = ? ORDER BY created", (session,))
    samplers = db.execute("SELECT * FROM samplers WHERE session = ? ORDER BY created", (session,))
    return [Run(**row) for row in runs], [Sampler(**row) for row in samplers]


def last_request(db: sqlite3.Connection, session: str, now: float) -> float:
    """Return when the last request of SESSION ended: NOW if one is open, 0 if there is none."""
    query = f"SELECT max(coalesce(finished, :now)) AS ended FROM requests WHERE {_QUEUES}"  # noqa: S608
    row = db.execute(query, {"session": session, "now": now}).fetchone()
    return float(row["ended"] or 0.0)


def requests_of(
    db: sqlite3.Connection, session: str, after: tuple[str, int], limit: int
) -> list[Request]:
    """Return LIMIT requests of SESSION that follow a queue and number, in this order.

    They come without bodies and results.
    """
    query = (
        f"SELECT {_WITHOUT_BOTH} FROM requests WHERE {_QUEUES}"  # noqa: S608 (our own columns)
        " AND (queue, seq) > (:queue, :seq) ORDER BY queue, seq LIMIT :limit"
    )
    values = {"session": session, "queue": after[0], "seq": after[1], "limit": limit}
    return [Request(**row) for row in db.execute(query, values)]


def delete_sampler(db: sqlite3.Connection, sampler: str) -> None:
    """Delete a sampler and the requests that went to it."""
    db.execute("DELETE FROM samplers WHERE id = ?", (sampler,))
    db.execute("DELETE FROM requests WHERE queue = ?", (sampler,))


def delete_session(db: sqlite3.Connection, session: str) -> None:
    """Delete a session with its runs, samplers and requests."""
    for table in ("runs", "samplers"):
        queues = f"SELECT id FROM {table} WHERE session = ?"  # noqa: S608 (two fixed names)
        db.execute(f"DELETE FROM requests WHERE queue IN ({queues})", (session,))  # noqa: S608
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))  # noqa: S608
    db.execute("DELETE FROM sessions WHERE id = ?", (session,))


def find_checkpoint(db: sqlite3.Connection, path: str) -> Checkpoint | None:
    """Return the checkpoint at PATH, if there is one."""
    row = db.execute("SELECT * FROM checkpoints WHERE path = ?", (path,)).fetchone()
    return Checkpoint(**row) if row else None


def checkpoints(
    db: sqlite3.Connection, *, run: str | None = None, owner: str | None = None
) -> list[Checkpoint]:
    """Return checkpoints, newest first, of one run, of one owner, or all."""
    rows = db.execute(
        "SELECT * FROM checkpoints WHERE (:run IS NULL OR run = :run)"
        " AND (:owner IS NULL OR owner = :owner) ORDER BY created DESC, path",
        {"run": run, "owner": owner},
    )
    return [Checkpoint(**row) for row in rows]


def update_checkpoint(db: sqlite3.Connection, path: str, **values: Any) -> None:
    """Change the named columns of the checkpoint at PATH."""
    names = ", ".join(f"{name} = :{name}" for name in values)
    db.execute(f"UPDATE checkpoints SET {names} WHERE path = :path", values | {"path": path})  # noqa: S608


def delete_checkpoint(db: sqlite3.Connection, path: str) -> None:
    """Delete the checkpoint at PATH."""
    db.execute("DELETE FROM checkpoints WHERE path = ?", (path,))


def all_uploads(db: sqlite3.Connection) -> list[Upload]:
    """Return every upload that is not finished."""
    return [Upload(**row) for row in db.execute("SELECT * FROM uploads")]


def find_upload(db: sqlite3.Connection, upload_id: str) -> Upload | None:
    """Return the upload UPLOAD_ID, if it is not finished."""
    row = db.execute("SELECT * FROM uploads WHERE id = ?", (upload_id,)).fetchone()
    return Upload(**row) if row else None


def delete_upload(db: sqlite3.Connection, upload_id: str) -> None:
    """Delete an upload that is finished or has expired."""
    db.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
