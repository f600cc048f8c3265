"""Capabilities, and the one that a job has.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

import dreadnode_api.models.base

revision = '0002'
down_revision = '0001'


def upgrade() -> None:
    op.create_table('capability_versions',
    sa.Column('id', sa.String(length=36), nullable=False),
    sa.Column('org_id', sa.String(length=36), nullable=False),
    sa.Column('name', sa.String(length=100), nullable=False),
    sa.Column('version', sa.String(length=64), nullable=False),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('prompt', sa.Text(), nullable=True),
    sa.Column('entry_agent', sa.String(length=300), nullable=True),
    sa.Column('details', sa.JSON(), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.Column('manifest_sha256', sa.String(length=64), nullable=True),
    sa.Column('created_at', dreadnode_api.models.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('created_by', sa.String(length=36), nullable=True),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_capability_versions_created_by')),
    sa.ForeignKeyConstraint(['org_id'], ['organizations.id'], name=op.f('fk_capability_versions_org_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_capability_versions')),
    sa.UniqueConstraint('org_id', 'name', 'version', name=op.f('uq_capability_versions_org_id_name_version'))
    )
    op.create_table('registry_blobs',
    sa.Column('org_id', sa.String(length=36), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.Column('bytes', sa.BigInteger(), nullable=False),
    sa.Column('created_at', dreadnode_api.models.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['org_id'], ['organizations.id'], name=op.f('fk_registry_blobs_org_id')),
    sa.PrimaryKeyConstraint('org_id', 'sha256', name=op.f('pk_registry_blobs'))
    )
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('capability', sa.JSON(none_as_null=True), nullable=True))
