"""Adapters that users upload, from which jobs start.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = '0016'
down_revision = '0015'


def upgrade() -> None:
    op.create_table(
        'uploaded_adapters',
        sa.Column('path', sa.String(length=500), nullable=False),
        sa.Column('org_id', sa.String(length=36), nullable=False),
        sa.Column('lineage', sa.String(length=36), nullable=False),
        sa.Column('base_model', sa.String(length=200), nullable=False),
        sa.Column('rank', sa.Integer(), nullable=False),
        sa.Column('train_mlp', sa.Boolean(), nullable=False),
        sa.Column('train_attn', sa.Boolean(), nullable=False),
        sa.Column('train_unembed', sa.Boolean(), nullable=False),
        sa.Column('created_by', sa.String(length=36), nullable=True),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ['created_by'], ['users.id'], name=op.f('fk_uploaded_adapters_created_by')
        ),
        sa.ForeignKeyConstraint(
            ['org_id'], ['organizations.id'], name=op.f('fk_uploaded_adapters_org_id')
        ),
        sa.PrimaryKeyConstraint('path', name=op.f('pk_uploaded_adapters')),
    )
    op.create_index('ix_uploaded_adapters_expires_at', 'uploaded_adapters', ['expires_at'])
