"""Where the adapter of a checkpoint lies among the files of its job.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'


def upgrade() -> None:
    op.add_column('checkpoints', sa.Column('adapter', sa.String(length=200), nullable=True))
