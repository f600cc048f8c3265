"""Limits of single organizations, and the row that proves that the database can be written.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'


def upgrade() -> None:
    op.create_table(
        'quotas',
        sa.Column('org_id', sa.String(length=36), nullable=False),
        sa.Column('resource', sa.String(length=32), nullable=False),
        sa.Column('limit', sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(['org_id'], ['organizations.id'], name=op.f('fk_quotas_org_id')),
        sa.PrimaryKeyConstraint('org_id', 'resource', name=op.f('pk_quotas')),
    )
    op.create_table(
        'write_checks',
        sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('checked_at', sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_write_checks')),
    )
