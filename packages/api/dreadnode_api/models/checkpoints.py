"""Checkpoints, one row each, beside the list of paths in a job's artifacts.

                saved                retention
    writing ──────────────► ready ──────────────► expired, deleted by the engine: `deleted_at`
       │                      │
       │ its attempt ended    └─ final or best: kept for ever
       └──► no row: nothing was acknowledged

A pending checkpoint is identified by its name, because only the engine's response has its path.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, now, partial_index


class State(StrEnum):
    """What can be done with a checkpoint: nothing yet, anything, nothing any more."""

    WRITING = "writing"
    READY = "ready"
    EXPIRED = "expired"


class Checkpoint(Table):
    """Weights, or weights with optimizer and position, that a job has saved on the engine."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        # What the periodic task looks for: rows that the engine is to be asked about.
        partial_index("ix_checkpoints_open", "state", where="deleted_at IS NULL"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    # The order in which they were reported.
    number: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    step: Mapped[int | None] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    is_best: Mapped[bool] = mapped_column(default=False)
    is_final: Mapped[bool] = mapped_column(default=False)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    # The folder of the job's files where it lies as an adapter, once somebody has asked for it.
    adapter: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DeletedCheckpoint(Table):
    """A checkpoint of a deleted job that the engine still has."""

    __tablename__ = "deleted_checkpoints"

    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
