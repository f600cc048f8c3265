"""The rehearsal after which a job starts, and the steps of a rehearsal.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = '0013'
down_revision = '0012'


def upgrade() -> None:
    op.add_column('jobs', sa.Column('rehearsal_id', sa.String(length=36), nullable=True))
    op.add_column('jobs', sa.Column('rehearse_steps', sa.BigInteger(), nullable=True))
    op.create_index('ix_jobs_rehearsal_id', 'jobs', ['rehearsal_id'])
