"""The row that the readiness check writes, to prove that the database can be written."""

from sqlalchemy import Float, Integer
from sqlalchemy.orm import Mapped, mapped_column

from dreadnode_api.models.base import Table


class WriteCheck(Table):
    """When the database was last written by a readiness check."""

    __tablename__ = "write_checks"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    checked_at: Mapped[float] = mapped_column(Float)
