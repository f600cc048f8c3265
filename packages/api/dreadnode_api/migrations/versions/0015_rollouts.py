"""The rollouts that RL jobs keep.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = '0015'
down_revision = '0014'


def upgrade() -> None:
    op.create_table(
        'job_rollouts',
        sa.Column('job_id', sa.String(length=36), nullable=False),
        sa.Column('step', sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column('content', sa.LargeBinary(), nullable=False),
        sa.Column('bytes', sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_rollouts_job_id')),
        sa.PrimaryKeyConstraint('job_id', 'step', name=op.f('pk_job_rollouts')),
    )
