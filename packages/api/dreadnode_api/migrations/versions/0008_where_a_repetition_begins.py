"""The step at which a repetition of a job begins.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'


def upgrade() -> None:
    op.add_column('jobs', sa.Column('start_step', sa.BigInteger(), nullable=True))
