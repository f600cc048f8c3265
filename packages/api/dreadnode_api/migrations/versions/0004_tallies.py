"""Tallies of jobs, and the indexes of their lists.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'


def upgrade() -> None:
    op.create_table('job_tallies',
    sa.Column('workspace_id', sa.String(length=36), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('backend', sa.String(length=16), nullable=False),
    sa.Column('trainer_type', sa.String(length=16), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['workspace_id'], ['workspaces.id'], name=op.f('fk_job_tallies_workspace_id')),
    sa.PrimaryKeyConstraint('workspace_id', 'status', 'backend', 'trainer_type', name=op.f('pk_job_tallies'))
    )
    op.execute(
        "INSERT INTO job_tallies (workspace_id, status, backend, trainer_type, number) "
        "SELECT workspace_id, status, backend, trainer_type, count(*) FROM jobs "
        "GROUP BY workspace_id, status, backend, trainer_type"
    )
    op.create_index('ix_jobs_workspace_id_status_id', 'jobs', ['workspace_id', 'status', 'id'])
    op.create_index('ix_jobs_workspace_id_project_ref_id', 'jobs', ['workspace_id', 'project_ref', 'id'])
