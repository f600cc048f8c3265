"""What jobs cost, and the limits of jobs and workspaces.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from dreadnode_api.models.base import UtcDateTime

revision = '0012'
down_revision = '0011'


def upgrade() -> None:
    op.add_column('workspaces', sa.Column('monthly_limit_usd', sa.String(length=40), nullable=True))
    op.add_column('jobs', sa.Column('rates', sa.JSON(), nullable=True))
    op.add_column(
        'jobs', sa.Column('paid', sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column('jobs', sa.Column('usage', sa.JSON(), nullable=True))
    op.add_column(
        'jobs', sa.Column('cost_micro', sa.BigInteger(), server_default='0', nullable=False)
    )
    op.add_column('jobs', sa.Column('reserved_micro', sa.BigInteger(), nullable=True))
    op.add_column('jobs', sa.Column('earlier_usd', sa.String(length=64), nullable=True))
    op.add_column('jobs', sa.Column('stopped_by', sa.String(length=32), nullable=True))
    op.create_table(
        'deleted_job_costs',
        sa.Column('job_id', sa.String(length=36), nullable=False),
        sa.Column('workspace_id', sa.String(length=36), nullable=False),
        sa.Column('name', sa.String(length=200), nullable=True),
        sa.Column('model', sa.String(length=200), nullable=False),
        sa.Column('status', sa.String(length=16), nullable=False),
        sa.Column('paid', sa.Boolean(), nullable=False),
        sa.Column('rates', sa.JSON(), nullable=True),
        sa.Column('usage', sa.JSON(), nullable=True),
        sa.Column('cost_micro', sa.BigInteger(), nullable=False),
        sa.Column('created_at', UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ['workspace_id'], ['workspaces.id'], name=op.f('fk_deleted_job_costs_workspace_id')
        ),
        sa.PrimaryKeyConstraint('job_id', name=op.f('pk_deleted_job_costs')),
    )
    op.create_index(
        'ix_deleted_job_costs_workspace_id_created_at',
        'deleted_job_costs',
        ['workspace_id', 'created_at'],
    )
    op.create_index('ix_jobs_workspace_id_created_at', 'jobs', ['workspace_id', 'created_at'])
