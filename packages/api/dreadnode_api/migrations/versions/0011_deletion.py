"""Deleted jobs and datasets.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

import dreadnode_api.models.base

revision = '0011'
down_revision = '0010'


def upgrade() -> None:
    op.create_table(
        'deleted_checkpoints',
        sa.Column('path', sa.String(length=500), nullable=False),
        sa.Column('created_at', dreadnode_api.models.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('path', name=op.f('pk_deleted_checkpoints')),
    )
    op.add_column(
        'dataset_versions',
        sa.Column('deleted_at', dreadnode_api.models.base.UtcDateTime(timezone=True), nullable=True),
    )
