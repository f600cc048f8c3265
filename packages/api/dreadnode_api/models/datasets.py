"""One row for each version of a dataset and for each of its splits; the files are blobs."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dreadnode_api.models.base import Table, UtcDateTime, new_id, now


class DatasetSplit(Table):
    """One file of a version: as it was pushed, and as JSONL, which is what jobs read."""

    __tablename__ = "dataset_splits"

    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    format: Mapped[str] = mapped_column(String(16))
    rows: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    # The same as those of the file if it is JSONL.
    content_bytes: Mapped[int] = mapped_column(BigInteger)
    content_sha256: Mapped[str] = mapped_column(String(64))


class DatasetVersion(Table):
    """An immutable version of a named dataset.

    `rows` and `bytes` are sums over its splits. `sha256` is that of the only split's file, or of
    the list of several files (see `service.digest`).
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("org_id", "name", "version"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(64))
    format: Mapped[str] = mapped_column(String(16))
    rows: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    # The row of a deleted version stays, so that its name never means other rows.
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    splits: Mapped[list[DatasetSplit]] = relationship(
        order_by=DatasetSplit.position, lazy="selectin"
    )
