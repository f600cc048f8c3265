"""Webhooks and their deliveries.

A change of a job's status and its announcement are written in one transaction, so neither exists
without the other. The dispatcher turns announcements into deliveries, one for each webhook of the
workspace, and tries each until it succeeds or has failed for too long.

    job's new status + Announcement ──► Delivery ──► delivered_at
                                          │  ▲
                                          │  └── failed: again after a pause that grows
                                          └────► given_up_at
"""

import json
from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, new_id, now, partial_index


class Webhook(Table):
    """A URL that gets messages about the jobs of one workspace."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_workspace_id", "workspace_id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    url: Mapped[str] = mapped_column(String(2000))
    # Not hashed, because every delivery is signed with it.
    secret: Mapped[str] = mapped_column(String(100))
    # The statuses that are sent; empty means all.
    statuses: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Announcement(Table):
    """A change of status without deliveries yet; it is the event with this number."""

    __tablename__ = "announcements"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Delivery(Table):
    """One message to one webhook, and its state."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
        partial_index("ix_webhook_deliveries_due", "next_at", where="next_at IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    job_id: Mapped[str] = mapped_column(String(36))
    number: Mapped[int] = mapped_column(Integer)
    body: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    # Time of the next attempt; None after success or the last failure.
    next_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=now)
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    given_up_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def type(self) -> str:
        """What the message is about, such as `training.job.completed`."""
        message: dict[str, str] = json.loads(self.body)
        return message["type"]
