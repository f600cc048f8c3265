"""Adapters that users have uploaded: each is a checkpoint on the engine until it expires."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table, UtcDateTime, now


class UploadedAdapter(Table):
    """An adapter that was trained elsewhere, from which jobs of its organization can start."""

    __tablename__ = "uploaded_adapters"
    __table_args__ = (Index("ix_uploaded_adapters_expires_at", "expires_at"),)

    path: Mapped[str] = mapped_column(String(500), primary_key=True)
    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    # The subject of the engine's key that opens it.
    lineage: Mapped[str] = mapped_column(String(36))
    base_model: Mapped[str] = mapped_column(String(200))
    rank: Mapped[int] = mapped_column(Integer)
    train_mlp: Mapped[bool]
    train_attn: Mapped[bool]
    train_unembed: Mapped[bool]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
