"""Stored results of checks, and jobs whose data is still being checked.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from dreadnode_api.models.base import UtcDateTime

revision = '0009'
down_revision = '0008'


def upgrade() -> None:
    op.create_table(
        'stored_checks',
        sa.Column('key', sa.String(length=64), nullable=False),
        sa.Column('org_id', sa.String(length=36), nullable=False),
        sa.Column('report', sa.JSON(), nullable=False),
        sa.Column('created_at', UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ['org_id'], ['organizations.id'], name=op.f('fk_stored_checks_org_id')
        ),
        sa.PrimaryKeyConstraint('key', name=op.f('pk_stored_checks')),
    )
    op.create_index(op.f('ix_stored_checks_created_at'), 'stored_checks', ['created_at'])
    op.create_table(
        'job_validations',
        sa.Column('job_id', sa.String(length=36), nullable=False),
        sa.Column('request', sa.JSON(), nullable=False),
        sa.Column('sources', sa.JSON(), nullable=False),
        sa.Column('owner', sa.String(length=36), nullable=False),
        sa.Column('owner_until', UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ['job_id'], ['jobs.id'], name=op.f('fk_job_validations_job_id')
        ),
        sa.PrimaryKeyConstraint('job_id', name=op.f('pk_job_validations')),
    )
