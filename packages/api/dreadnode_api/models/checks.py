"""Checks of data: their stored results, and the jobs that wait for one."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, now


class StoredCheck(Table):
    """The report of a check; equal checks of an organization have the same key."""

    __tablename__ = "stored_checks"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)


class Validation(Table):
    """A job whose data is still being checked, and the process that does it.

    A process that ends without finishing it stops renewing `owner_until`, and another one takes
    over.
    """

    __tablename__ = "job_validations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    sources: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    owner: Mapped[str] = mapped_column(String(36))
    owner_until: Mapped[datetime] = mapped_column(UtcDateTime)
