"""The limits of single organizations, where they differ from those of the server's settings."""

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table


class Quota(Table):
    """One limit of one organization; 0 is no limit."""

    __tablename__ = "quotas"

    org_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(String(32), primary_key=True)
    limit: Mapped[int] = mapped_column(BigInteger)
