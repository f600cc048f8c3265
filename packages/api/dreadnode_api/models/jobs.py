"""Jobs and what is known of them. The jobs table is the queue.

                      claim                    training_end
    (create) ──► queued ──► running ───────────────────────────► completed
                   ▲  │        │ │  training_end with cancelled,
                   │  │        │ │  or killed after the grace
     lost sandbox, │  │ cancel │ └──────────────────────────────► cancelled
     fault not its │  └────────┼────────────────────────────────►    ▲
     own, attempts │           │                                     │ cancel while queued
     left          └───────────┤
                               └────────────────────────────────► failed
                                 training_error, own fault, attempts used up

Nothing leaves `completed`, `failed` or `cancelled`. Who works on a running job holds its
`lease`; every write of a dispatcher names it, so that one given up for dead cannot overwrite
its heir. Writes of the sandbox name its attempt, through its token.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, new_id, now


class Status(StrEnum):
    """The five states that clients know."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Before every other moment, by any clock."""

ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Job(Table):
    """One training job: what was asked, where it stands, and who works on it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("workspace_id", "idempotency_key"),
        Index("ix_jobs_workspace_id_id", "workspace_id", "id"),
        # A page of the few failed ones must not pass over all the others.
        Index("ix_jobs_workspace_id_status_id", "workspace_id", "status", "id"),
        Index("ix_jobs_workspace_id_project_ref_id", "workspace_id", "project_ref", "id"),
        Index("ix_jobs_status_available_at", "status", "available_at"),
        # A lease says that a sandbox may exist; few jobs of a full table have one.
        Index(
            "ix_jobs_leased",
            "workspace_id",
            "lease_until",
            sqlite_where=text("lease IS NOT NULL"),
            postgresql_where=text("lease IS NOT NULL"),
        ),
        # The oldest queued job of a workspace, at once.
        Index(
            "ix_jobs_queued",
            "workspace_id",
            "id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    # Where a repetition begins: after so many steps, whose weights it was handed.
    start_step: Mapped[int | None] = mapped_column(BigInteger)
    # The first job of a chain of retries. The engine's keys name it, so that a retry can load
    # the checkpoints of the job it goes on from.
    lineage: Mapped[str] = mapped_column(String(36))

    # What was asked.
    name: Mapped[str | None] = mapped_column(String(200))
    backend: Mapped[str] = mapped_column(String(16))
    trainer_type: Mapped[str] = mapped_column(String(16))
    algorithm: Mapped[str | None] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(200))
    trained_model: Mapped[str] = mapped_column(String(200))
    rehearsal: Mapped[bool] = mapped_column(default=False)
    # Name, version and id of the capability whose prompt the config holds.
    capability: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    project_ref: Mapped[str | None] = mapped_column(String(200))
    run_ref: Mapped[str | None] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(JSON, default=list)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    preflight: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    # Where it stands.
    status: Mapped[str] = mapped_column(String(16), default=Status.QUEUED)
    phase: Mapped[str | None] = mapped_column(String(32))
    phase_reason: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    scalars: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    artifacts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(64))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    applied_seq: Mapped[int] = mapped_column(Integer, default=0)
    events: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # Who works on it, and since how many faults that were not its own.
    # By the database's clock; a new job need not wait, whatever the time is anywhere.
    available_at: Mapped[datetime] = mapped_column(UtcDateTime, default=LONG_AGO)
    faults: Mapped[int] = mapped_column(Integer, default=0)
    lease: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    host: Mapped[str | None] = mapped_column(String(64))


class Turn(Table):
    """When a workspace had its last turn at the queue, counted in turns of all of them."""

    __tablename__ = "queue_turns"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    turn: Mapped[int] = mapped_column(BigInteger)


class Tally(Table):
    """How many jobs of a workspace are in a state, so that no list has to count them.

    Written in the transaction of the change itself, by `records.move` and nobody else.
    """

    __tablename__ = "job_tallies"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    backend: Mapped[str] = mapped_column(String(16), primary_key=True)
    trainer_type: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Event(Table):
    """One thing that happened to a job, numbered from 1 within it; logs are events too."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Points(Table):
    """The list-valued metrics of one progress event: parallel lists on an axis of steps.

    The series of a job are the concatenation of its rows by `number`. One row an event keeps
    the cost of an event independent of how long the series already is.
    """

    __tablename__ = "job_points"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(BigInteger)
    lists: Mapped[dict[str, Any]] = mapped_column(JSON)


class JobFile(Table):
    """A file that a sandbox has handed in; the bytes lie in the blob store."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
