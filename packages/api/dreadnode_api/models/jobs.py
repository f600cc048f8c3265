"""Jobs, their events, metrics and files. The jobs table is the queue.

                      claim                    training_end
    (create) ──► queued ──► running ───────────────────────────► completed
                   ▲  │        │ │  training_end with cancelled,
                   │  │        │ │  or killed after the grace
    infrastructure │  │ cancel │ └──────────────────────────────► cancelled
    failure, with  │  └────────┼────────────────────────────────►    ▲
    attempts left  │           │                                     │ cancel while queued
                   └───────────┤
                               └────────────────────────────────► failed
                                 training_error, a limit exceeded, attempts used up

A job never leaves `completed`, `failed` or `cancelled`. The dispatcher of a running job holds its
`lease` and names it in every write, so that a dispatcher which is believed dead cannot overwrite
its successor. Writes of the sandbox name its attempt, through its token.
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
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, new_id, now, partial_index


class Status(StrEnum):
    """The status of a job, as clients see it."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


VALIDATING = "validating"
"""The phase of a queued job whose data is still being checked; no dispatcher claims it."""

REHEARSING = "rehearsing"
"""The phase of a queued job that starts when its rehearsal has ended well."""

NOT_READY = (VALIDATING, REHEARSING)
"""The phases of queued jobs that no dispatcher claims."""

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Earlier than any other time, by any clock."""

ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Job(Table):
    """One training job: its request, its state, and the dispatcher that owns it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("workspace_id", "idempotency_key"),
        Index("ix_jobs_workspace_id_id", "workspace_id", "id"),
        # A page of a few failed jobs must not scan all others.
        Index("ix_jobs_workspace_id_status_id", "workspace_id", "status", "id"),
        Index("ix_jobs_workspace_id_project_ref_id", "workspace_id", "project_ref", "id"),
        Index("ix_jobs_status_available_at", "status", "available_at"),
        Index("ix_jobs_rehearsal_id", "rehearsal_id"),
        # The costs of a month.
        Index("ix_jobs_workspace_id_created_at", "workspace_id", "created_at"),
        # Only a job with a lease may have a sandbox, and few jobs have one.
        partial_index("ix_jobs_leased", "workspace_id", "lease_until", where="lease IS NOT NULL"),
        # Finds the oldest queued job of a workspace without a scan.
        partial_index("ix_jobs_queued", "workspace_id", "id", where="status = 'queued'"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    # The rehearsal after which the job starts. Not a foreign key: it may be deleted.
    rehearsal_id: Mapped[str | None] = mapped_column(String(36))
    # The step from which a retry resumes.
    start_step: Mapped[int | None] = mapped_column(BigInteger)
    # The first job of a chain of retries. The engine's keys name it, so that a retry can load
    # the checkpoints of the job that it retries.
    lineage: Mapped[str] = mapped_column(String(36))

    # The request.
    name: Mapped[str | None] = mapped_column(String(200))
    backend: Mapped[str] = mapped_column(String(16))
    trainer_type: Mapped[str] = mapped_column(String(16))
    algorithm: Mapped[str | None] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(200))
    trained_model: Mapped[str] = mapped_column(String(200))
    rehearsal: Mapped[bool] = mapped_column(default=False)
    # Steps after which a rehearsal ends; its config is that of the whole job.
    rehearse_steps: Mapped[int | None] = mapped_column(BigInteger)
    # Name, version and id of the capability whose prompt the config holds.
    capability: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    project_ref: Mapped[str | None] = mapped_column(String(200))
    run_ref: Mapped[str | None] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(JSON, default=list)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    preflight: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    # The ledger. `pricing/ledger.py` and `budget.py` write it. Amounts in millionths of a dollar
    # are for sums over jobs; the exact cost follows from the usage and the rates.
    rates: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    paid: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Tokens by kind, by attempt.
    usage: Mapped[dict[str, dict[str, int]] | None] = mapped_column(JSON(none_as_null=True))
    cost_micro: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    reserved_micro: Mapped[int | None] = mapped_column(BigInteger)
    # What the jobs cost that this one retries.
    earlier_usd: Mapped[str | None] = mapped_column(String(64))
    stopped_by: Mapped[str | None] = mapped_column(String(32))

    # The state.
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

    # The dispatcher that owns it. `available_at` is by the database's clock, and in the past for
    # a new job, independent of the clocks.
    available_at: Mapped[datetime] = mapped_column(UtcDateTime, default=LONG_AGO)
    infrastructure_failures: Mapped[int] = mapped_column("faults", Integer, default=0)
    lease: Mapped[str | None] = mapped_column(String(36))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    host: Mapped[str | None] = mapped_column(String(64))


class DeletedJobCost(Table):
    """What a deleted job has cost: the costs of a month do not shrink when a job is deleted."""

    __tablename__ = "deleted_job_costs"
    __table_args__ = (
        Index("ix_deleted_job_costs_workspace_id_created_at", "workspace_id", "created_at"),
    )

    job_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str | None] = mapped_column(String(200))
    model: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16))
    paid: Mapped[bool]
    rates: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    usage: Mapped[dict[str, dict[str, int]] | None] = mapped_column(JSON(none_as_null=True))
    cost_micro: Mapped[int] = mapped_column(BigInteger)
    # Of the job, which decides its month.
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class FairShare(Table):
    """When the queue served a workspace last, counted in claims of all workspaces."""

    __tablename__ = "queue_turns"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    turn: Mapped[int] = mapped_column(BigInteger)


class Tally(Table):
    """How many jobs of a workspace have a status, so that lists need not count them.

    Updated in the transaction that changes a status, by `records.set_status` only.
    """

    __tablename__ = "job_tallies"

    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    backend: Mapped[str] = mapped_column(String(16), primary_key=True)
    trainer_type: Mapped[str] = mapped_column(String(16), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Event(Table):
    """An event of a job, numbered from 1 within the job; log lines are events too."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class MetricPoints(Table):
    """The list-valued metrics of one progress event: parallel lists on an axis of steps.

    The metric history of a job is the concatenation of its rows by `number`. With one row for each
    event, the cost of an event does not grow with the history.
    """

    __tablename__ = "job_points"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(BigInteger)
    lists: Mapped[dict[str, Any]] = mapped_column(JSON)


class StepRollouts(Table):
    """The rollouts that an RL job has kept of one step, as compressed JSON."""

    __tablename__ = "job_rollouts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)


class JobFile(Table):
    """A file that a sandbox has uploaded; its bytes are in the blob store."""

    __tablename__ = "job_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
