"""What stands in the journal: sessions, runs, samplers, requests and checkpoints.

Every function takes the connection first, is run by the journal inside a transaction, and
holds one thought in SQL. Times are seconds since the epoch.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dreadnode_engine.compute.served_models import ServedModel

Kind = Literal["training", "sampler", "external"]
FOLDERS: Mapping[Kind, str] = {
    "training": "weights",
    "sampler": "sampler_weights",
    "external": "external_weights",
}
"""The middle segment of a checkpoint's path, by its kind."""


@dataclass
class Session:
    """One client process; it is alive while it sends heartbeats."""

    id: str
    owner: str
    created: float
    seen: float
    finished: float | None = None
    idempotency_key: str | None = None
    user_metadata: str | None = None
    display_name: str | None = None


@dataclass
class Run:
    """One training run: a LoRA adapter on a base model, and where its last snapshot stands.

    `snapshot` is the sequence number after which the snapshot was taken, None before the first;
    `base_fingerprint` is of the weights it was made on, None if an earlier version made it.
    """

    id: str
    session: str
    owner: str
    base_model: str
    created: float
    used: float
    rank: int
    seed: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    user_metadata: str | None = None
    snapshot: int | None = None
    unloaded: bool = False
    base_fingerprint: str | None = None


def new_run(
    session: Session, number: int, base: ServedModel, metadata: dict[str, Any] | None, **shape: Any
) -> Run:
    """Return run NUMBER of SESSION as it is before its first operation; SHAPE is its adapter's."""
    now = time.time()
    return Run(
        id=f"{session.id}:train:{number}",
        session=session.id,
        owner=session.owner,
        base_model=base.id,
        created=now,
        used=now,
        user_metadata=dump(metadata),
        base_fingerprint=base.fingerprint,
        **shape,
    )


def dump(metadata: dict[str, Any] | None) -> str | None:
    """Return METADATA as it is stored, None for nothing."""
    return json.dumps(metadata) if metadata else None


@dataclass
class Sampler:
    """One sampling session: a base model, with the adapter in the folder `weights` if any.

    `inflight` says that the weights are replaced whenever its run saves inflight weights again.
    """

    id: str
    session: str
    owner: str
    base_model: str
    created: float
    used: float
    model_path: str | None = None
    weights: str | None = None
    run: str | None = None
    inflight: bool = False
    base_fingerprint: str | None = None


def new_sampler(
    session: Session, number: int, base: ServedModel, model_path: str | None, weights: str | None
) -> Sampler:
    """Return sampler NUMBER of SESSION as it is when it has just been opened."""
    now = time.time()
    return Sampler(
        id=f"{session.id}:sample:{number}",
        session=session.id,
        owner=session.owner,
        base_model=base.id,
        created=now,
        used=now,
        model_path=model_path,
        weights=weights,
        base_fingerprint=base.fingerprint,
    )


@dataclass
class Request:
    """One accepted request; `body` goes when nothing will replay it, `result` when nobody asks."""

    id: str
    lane: str
    seq: int
    kind: str
    owner: str
    digest: bytes
    body: bytes | None
    state: str
    media: str | None = None
    result: bytes | None = None
    created: float = 0.0
    finished: float | None = None
    read: float | None = None
    lost: int = 0  # How often the engine ended unexpectedly while it computed this.

    @property
    def payload(self) -> bytes:
        """The body, of a request that has not given it up."""
        if self.body is None:
            raise ValueError(f"the body of {self.id} is no longer kept")
        return self.body


def _unchanging(kind: str, body: bytes) -> bytes:
    """Return what of BODY is the same when the request comes again because its answer was lost.

    For each attempt at a save for one sampler, the SDK counts that sampler anew.
    """
    if kind != "save_weights_for_sampler":
        return body
    try:
        fields = json.loads(body)
        fields.pop("sampling_session_seq_id", None)
        return json.dumps(fields, sort_keys=True).encode()
    except (ValueError, AttributeError):
        return body  # It is refused elsewhere.


def new_request(lane: str, seq: int, kind: str, owner: str, body: bytes) -> Request:
    """Return a request as it is when it has just been accepted."""
    digest = hashlib.sha256(kind.encode() + b"\0" + _unchanging(kind, body)).digest()
    return Request(
        id=f"{lane}:{seq}",
        lane=lane,
        seq=seq,
        kind=kind,
        owner=owner,
        digest=digest,
        body=body,
        state="queued",
        created=time.time(),
    )


@dataclass
class Checkpoint:
    """Saved weights under a `tinker://` path, and the shape of the adapter that they hold."""

    path: str
    run: str
    owner: str
    kind: Kind
    name: str
    created: float
    bytes: int
    base_model: str
    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    expires: float | None = None
    public: bool = False
    user_metadata: str | None = None
    base_fingerprint: str | None = None


Record = Session | Run | Sampler | Request | Checkpoint
_TABLES: Mapping[type, str] = {
    Session: "sessions",
    Run: "runs",
    Sampler: "samplers",
    Request: "requests",
    Checkpoint: "checkpoints",
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
    """Return the request REQUEST_ID with its answer, if it was ever accepted."""
    row = db.execute("SELECT * FROM requests WHERE id = ?", (request_id,)).fetchone()
    return Request(**row) if row else None


def queued(db: sqlite3.Connection) -> list[Request]:
    """Return what was accepted and not done, in order."""
    rows = db.execute("SELECT * FROM requests WHERE state = 'queued' ORDER BY lane, seq")
    return [Request(**row) for row in rows]


def finished_seqs(db: sqlite3.Connection, lane: str) -> set[int]:
    """Return the sequence numbers of LANE that have been done or have failed."""
    rows = db.execute("SELECT seq FROM requests WHERE lane = ? AND state != 'queued'", (lane,))
    return {row["seq"] for row in rows}


def to_replay(db: sqlite3.Connection, lane: str, after: int, before: int) -> list[Request]:
    """Return the operations of LANE that changed its run between two sequence numbers."""
    rows = db.execute(
        "SELECT * FROM requests WHERE lane = ? AND seq > ? AND seq < ? AND state = 'done'"
        " AND kind IN ('forward_backward', 'optim_step') AND body IS NOT NULL ORDER BY seq",
        (lane, after, before),
    )
    return [Request(**row) for row in rows]


def finish(
    db: sqlite3.Connection, request: Request, media: str, result: bytes, *, keep_body: bool
) -> None:
    """Record that REQUEST was done."""
    _finish(db, request, "done", media, result, keep_body=keep_body)


def fail(db: sqlite3.Connection, request: Request, sentence: str, category: str) -> None:
    """Record that REQUEST could not be done; a failed operation changed nothing."""
    result = json.dumps({"error": sentence, "category": category}).encode()
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
        "UPDATE requests SET state = ?, media = ?, result = ?, finished = ?,"
        " body = CASE WHEN ? THEN body END WHERE id = ?",
        (state, media, result, request.finished, keep_body, request.id),
    )


def drop(db: sqlite3.Connection, request: Request) -> None:
    """Record that REQUEST was given up; sent again, it is accepted again."""
    request.state = "dropped"
    request.finished = time.time()
    db.execute(
        "UPDATE requests SET state = 'dropped', finished = ?, body = NULL WHERE id = ?",
        (request.finished, request.id),
    )


def replace_weights(db: sqlite3.Connection, run: str, weights: str) -> None:
    """Let every inflight sampler of RUN sample from WEIGHTS from now on."""
    db.execute("UPDATE samplers SET weights = ? WHERE run = ? AND inflight", (weights, run))


def set_snapshot(db: sqlite3.Connection, run: str, seq: int) -> None:
    """Record that the state of RUN after SEQ is on disk; what came before is never replayed."""
    db.execute("UPDATE runs SET snapshot = ? WHERE id = ?", (seq, run))
    db.execute(
        "UPDATE requests SET body = NULL WHERE lane = ? AND seq <= ? AND state != 'queued'",
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
    """Write when answers were first fetched."""
    db.executemany("UPDATE requests SET read = ? WHERE id = ? AND read IS NULL", read)


def drop_answers(db: sqlite3.Connection, *, finished_before: float, read_before: float) -> None:
    """Drop answers that are old, or were fetched a while ago; that they were given stays known."""
    db.execute(
        "UPDATE requests SET result = NULL WHERE state != 'queued' AND result IS NOT NULL"
        " AND (finished < ? OR read < ?)",
        (finished_before, read_before),
    )


def forget_sampler(db: sqlite3.Connection, sampler: str) -> None:
    """Delete a sampler and the requests that went to it."""
    db.execute("DELETE FROM samplers WHERE id = ?", (sampler,))
    db.execute("DELETE FROM requests WHERE lane = ?", (sampler,))


def forget_session(db: sqlite3.Connection, session: str) -> None:
    """Delete a session with its runs, samplers and requests."""
    for table in ("runs", "samplers"):
        lanes = f"SELECT id FROM {table} WHERE session = ?"  # noqa: S608 (one of two literals)
        db.execute(f"DELETE FROM requests WHERE lane IN ({lanes})", (session,))  # noqa: S608
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
    """Forget the checkpoint at PATH."""
    db.execute("DELETE FROM checkpoints WHERE path = ?", (path,))
